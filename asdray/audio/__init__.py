"""Audio from wavs to batches and spectra: packs, batches of clips, features."""
