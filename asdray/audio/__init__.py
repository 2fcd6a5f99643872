"""Audio as training reads it: packs of decoded clips."""
