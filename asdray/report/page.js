"use strict";

// ---------------------------------------------------------------------------------------------- leaderboard

const table = document.getElementById("board");
const filters = document.getElementById("filters");
const rows = Array.from(table.tBodies[0].rows);
const heads = Array.from(table.tHead.rows[0].cells);

function filter() {
  const asked = Object.fromEntries(new FormData(filters));
  const words = (asked.text || "").toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows) {
    const fits = ["recipe", "backend", "checkpoint", "origin"].every((name) => !asked[name] || row.dataset[name] === asked[name]);
    const text = row.textContent.toLowerCase();
    row.hidden = !fits || !words.every((word) => text.includes(word));
    shown += !row.hidden;
  }
  heads.forEach((head, i) => {
    const { year, subset } = head.dataset;
    const hidden = Boolean(head.classList.contains("score") &&
      ((asked.year && year !== asked.year) || (asked.subset && subset !== asked.subset)));
    if (head.hidden !== hidden) {
      head.hidden = hidden;
      for (const row of rows) row.cells[i].hidden = hidden;
    }
  });
  document.getElementById("count").value = shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
}

function key(cell) {
  const { value } = cell.dataset;
  if (value === undefined) return cell.textContent.trim().toLowerCase();
  return value === "" ? null : Number(value);
}

// Rows without a value come last, whatever the direction.
function sort(i) {
  const head = heads[i];
  const before = head.getAttribute("aria-sort");
  const down = before ? before === "ascending" : head.classList.contains("score");
  heads.forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const keyed = rows.map((row, place) => [key(row.cells[i]), place, row]);
  keyed.sort(([a, i], [b, j]) => {
    if (a === null || b === null) return (a === null) - (b === null) || i - j;
    const order = a < b ? -1 : a > b ? 1 : 0;
    return (down ? -order : order) || i - j;
  });
  table.tBodies[0].append(...keyed.map(([, , row]) => row));
}

heads.forEach((head, i) => head.querySelector("button").addEventListener("click", () => sort(i)));
filters.addEventListener("input", filter);
filters.addEventListener("submit", (event) => event.preventDefault());
filter();

// -------------------------------------------------------------------------------------------------- figures

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// Plotly's script runs when the first figure comes near: the page opens before.
function loadPlotly() {
  if (!window.Plotly) {
    const script = document.createElement("script");
    script.textContent = document.getElementById("plotly").textContent;
    document.head.append(script);
  }
}

// Points of a plot, one trace per value of the chosen colouring.
function tracesOf({ x, y, text, crossed, groups }, colouring) {
  const { values, of } = groups[colouring];
  return values.map(([name, color], value) => {
    const at = of.flatMap((own, i) => (own === value ? [i] : []));
    const take = (list) => at.map((i) => list[i]);
    return {
      type: "scatter", mode: "markers", name, x: take(x), y: take(y), text: take(text), hovertemplate: "%{text}<extra></extra>",
      marker: { color, size: 6, opacity: 0.75, symbol: take(crossed).map((is) => (is ? "x" : "circle")) },
    };
  });
}

function layoutOf(figure, width) {
  const text = colour("--text"), line = colour("--line");
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line };
  const layout = structuredClone(figure.layout);
  for (const name of Object.keys(layout).filter((name) => /^[xy]axis/.test(name)).concat(["xaxis", "yaxis"])) {
    layout[name] = { ...axis, ...layout[name] };
  }
  for (const shape of layout.shapes || []) if (shape.line && shape.line.color === "#000") shape.line.color = text;
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: text, size: 12 }, hovermode: "closest",
    margin: { l: 60, r: 20, t: 50, b: 50 }, legend: { orientation: "h", y: -0.2, yanchor: "top" }, ...layout, width, autosize: false,
  };
}

class FigureBox {
  constructor(box) {
    this.plot = box.querySelector(".plot");
    this.form = box.querySelector("form");
    this.id = box.dataset.figures;
  }

  // The data of a figure are parsed when the reader comes near.
  open() {
    loadPlotly();
    const { names, figures } = JSON.parse(document.getElementById(`data-${this.id}`).textContent);
    this.figures = figures;
    this.selects = names.map((name, i) => {
      const label = document.createElement("label"), select = document.createElement("select");
      select.name = name;
      label.append(`${name} `, select);
      if (new Set(figures.map(([key]) => key[i])).size > 1) this.form.append(label);
      select.addEventListener("input", () => this.choose(i));
      return select;
    });
    this.colouring = this.colourings(figures[0][1].points);
    this.key = figures[0][0];
    this.choose(-1);
  }

  // The choice of a colouring, for figures of points.
  colourings(points) {
    if (!points) return null;
    const label = document.createElement("label"), select = document.createElement("select");
    label.append("colour ", select);
    this.form.append(label);
    select.addEventListener("input", () => this.draw());
    return select;
  }

  data() {
    const { points, data } = this.figure;
    if (!points) return structuredClone(data);
    const names = Object.keys(points.groups);
    const chosen = names.includes(this.colouring.value) ? this.colouring.value : names[0];
    this.colouring.replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
    return tracesOf(points, chosen);
  }

  // Values after the changed one are kept where there is such a figure.
  choose(changed) {
    const wanted = changed < 0 ? this.key : this.selects.map((select) => select.value);
    let found = this.figures;
    this.key = this.selects.map((select, i) => {
      const values = [...new Set(found.map(([key]) => key[i]))];
      const value = values.includes(wanted[i]) ? wanted[i] : values[0];
      select.replaceChildren(...values.map((text) => new Option(text, text, false, text === value)));
      found = found.filter(([key]) => key[i] === value);
      return value;
    });
    this.figure = found[0][1];
    this.draw();
  }

  draw() {
    if (!this.figure) return;
    const width = Math.max(320, this.plot.parentElement.clientWidth);
    const options = { displaylogo: false, responsive: false, displayModeBar: width > 600 ? "hover" : false };
    Plotly.react(this.plot, this.data(), layoutOf(this.figure, width), options);
  }
}

const boxes = new Map(Array.from(document.querySelectorAll(".figure"), (box) => [box, new FigureBox(box)]));
const near = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((entry) => entry.isIntersecting)) {
    near.unobserve(entry.target);
    boxes.get(entry.target).open();
  }
}, { rootMargin: "400px" });
boxes.forEach((_, box) => near.observe(box));

function redraw() { boxes.forEach((box) => box.draw()); }

let waiting;
window.addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(redraw, 150); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  redraw();
});
