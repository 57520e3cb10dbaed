"""The settings of a run: schema and shipped YAML files."""
