"""From one YAML file to trained runs, graded predictions, tables and figures."""
