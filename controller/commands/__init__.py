"""The commands of ``skyrack``, by what they are about. Importing this registers them, in the order of ``--help``."""

from importlib import import_module

for _module in ("plans", "runs", "results", "fitness", "verification", "devices", "packages"):
    import_module(f"controller.commands.{_module}")
