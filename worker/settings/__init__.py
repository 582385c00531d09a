"""The settings: one TOML file and the environment."""
