"""Loads TOML and environment and hands each part its section; examples and presets lie beside this file."""
