"""Recipes that ship with asdray, one YAML file each."""
