# %% [markdown]
# Analysis of a sweep: every number of a sweep is in one table, `asdray.load_results(NAME)`.
#
# The cells run in VS Code, Spyder or Jupyter (jupytext), or all at once: `python examples/analysis.py NAME`.

# %%
import sys

import asdray

name = sys.argv[1] if len(sys.argv) > 1 else "dis_grid"  # a sweep below results/, or its folder
results = asdray.load_results(name)
results["value"] *= 100  # percent
print(f"{len(results):,} values; columns: {', '.join(results.columns)}")

# %% [markdown]
# The official score of every system, backend and machine: mean and standard deviation over seeds. `section`
# -1 is a machine's score over its sections; the mean over machines is in the sweep's leaderboard.

# %%
official = results[(results["metric"] == "official") & (results["section"] == -1)]
machines = official.groupby(["dcase", "subset", "system", "backend", "machine"])["value"]
print(machines.agg(["mean", "std", "count"]).round(2).to_string())

# %% [markdown]
# Which machine is hardest? Mean over systems, backends and seeds.

# %%
hardest = official.groupby(["dcase", "machine"])["value"].mean().sort_values()
print(hardest.round(2).to_string())

# %% [markdown]
# Source against target: how much a system loses under other conditions.

# %%
domains = results[results["metric"].isin(["smix_auc", "tmix_auc"]) & (results["section"] == -1)]
pairs = domains.pivot_table(index=["system", "backend", "machine"], columns="metric", values="value")
pairs["lost"] = pairs["smix_auc"] - pairs["tmix_auc"]
print(pairs.groupby(["system", "backend"]).mean().round(2).to_string())

# %% [markdown]
# Swept options are columns too: one line per value, where the sweep varies some.

# %%
known = {
    "recipe", "system", "dcase", "subset", "seed", "machine", "section", "backend", "checkpoint", "metric",
    "value", "part", "dataset", "backend_id",
}  # fmt: skip
for option in (column for column in results.columns if column not in known):
    print(official.groupby(official[option].astype(str))["value"].mean().round(2).to_string())
