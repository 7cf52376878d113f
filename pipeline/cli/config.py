"""`texsynth config show PRESET`: every setting, as a file that `run --config` reads."""

from cyclopts import App

from pipeline.config import RunConfig
from pipeline.config_file import config_yaml
from texsynth.config import PresetName

app = App(name="config", help="Show the settings of a preset, as YAML.", version_flags=[])


@app.command
def show(preset: PresetName = "default", /) -> None:
    """Print all settings of a preset as YAML; `texsynth run --config FILE` reads them.

    Args:
        preset: Which one.
    """
    print(config_yaml(RunConfig(preset=preset).resolved()), end="")
