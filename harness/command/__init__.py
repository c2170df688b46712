"""The command ``beamlora``: one name for what one does most. Each part is a module that also runs as ``python -m``."""
