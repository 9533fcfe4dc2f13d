"""What several commands take: their options and arguments. Knows no torch, so that --help comes at once."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_type_hints

import typer

from fastaug.cli.errors import WrongOption
from fastaug.config import use_config
from fastaug.loading.options import ModeName

LISTS = (".csv", ".tsv", ".txt")
KindName = Literal["class", "labels", "numbers"]


def _bytes(text: str) -> int:
    """20000000000, 20G and 20GB are the same."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmgt]?)b?", text.strip(), re.IGNORECASE)
    count = int(float(found[1]) * 1000 ** " kmgt".index(found[2].lower() or " ")) if found else 0
    if count < 1:
        raise typer.BadParameter(f"expected bytes, such as 20GB, got {text!r}.")
    return count


Debug = Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, mps, xpu …", show_default="cuda where there is one")
]
Folder = Annotated[
    Path | None,
    typer.Argument(
        help="A folder of images, at any depth; a .tar archive, or a pattern of such; or a list as .csv, .tsv or .txt.",
        show_default="that of --csv",
    ),
]
Csv = Annotated[
    Path | None,
    typer.Option(
        "--csv", help="A list of images, whatever its name; FOLDER is then that of its paths.", show_default="none"
    ),
]
Pattern = Annotated[
    str | None,
    typer.Option(
        help=r"Regular expression for file names; its group 1 is the class, as in '(.+)_\d+\.jpg$'.",
        show_default="the class is the parent folder",
    ),
]
Level = Annotated[
    int | None,
    typer.Option(
        help="Which folder is the class: 1 the first below FOLDER, 2 the one in it, -1 the one that a file lies in.",
        show_default="-1, or train/ and val/ are halves",
    ),
]
PathColumn = Annotated[
    str | None,
    typer.Option("--path", "--path-column", help="Of a list: its column with the file.", show_default="file"),
]
Target = Annotated[
    list[str] | None,
    typer.Option(
        help="Of a list: its column with the class, the labels or the number; several times for one column a label, "
        "of 0 and 1, or a number. Of an archive: where the class is, 'cls', 'json:FIELD' or 'folder'.",
        show_default="label, cls",
    ),
]
LabelSep = Annotated[
    str | None,
    typer.Option(
        help="Of a list: what separates several labels in the column of --target.", show_default="one class each"
    ),
]
Kind = Annotated[
    KindName | None,
    typer.Option(
        help="Of a list: class, labels or numbers, such as whole numbers that are not classes.",
        show_default="as the columns look",
    ),
]
Root = Annotated[
    Path | None,
    typer.Option(
        help="Of a list: the folder that its paths are relative to.",
        show_default="the working directory or the list's folder, where the files are",
    ),
]
Outside = Annotated[
    bool | None, typer.Option("--outside", help="Of a list: its paths may leave --root.", show_default="an error")
]
Encoding = Annotated[str | None, typer.Option(help="Of a list, such as latin-1.", show_default="utf-8")]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Of each process.", show_default="8 to 64, so that an epoch has 12 batches")
]
ModelName = Annotated[str, typer.Option(help="A model of torchvision, or timm:NAME.")]
Beside = Annotated[
    str | None, typer.Option(help="Also this model of torchvision, or timm:NAME (random weights).", show_default="none")
]
Weights = Annotated[
    str,
    typer.Option(
        help="DEFAULT (downloaded once), none, lite0 (for timm:tf_efficientnet_lite0, from the installed package), "
        "or a .pth or .safetensors file."
    ),
]
Size = Annotated[int, typer.Option(min=1, help="Side of the images that the model gets, pixels.")]
Presize = Annotated[int, typer.Option(min=1, help="Side to which photos are resized first, pixels.")]
Cache = Annotated[
    str | None,
    typer.Option(
        help="Keep decoded photos: 'memory', which ends with the training; 'device', the GPU's; or a folder.",
        show_default="none",
    ),
]
CacheBytes = Annotated[
    int | None,
    typer.Option(
        parser=_bytes, metavar="BYTES", help="That the cache may take, as 20GB.", show_default="half of what is free"
    ),
]
ReadTimeout = Annotated[
    float | None,
    typer.Option(
        min=0.001, help="Seconds after which a read that hangs is given up.", show_default="as long as it takes"
    ),
]
Mode = Annotated[ModeName, typer.Option(help="resize or direct.")]
Seed = Annotated[int, typer.Option(help="Of everything random.")]
Json = Annotated[bool, typer.Option("--json", help="JSON, and nothing else, on standard output.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier call has left there.")]
Config = Annotated[
    Path | None,
    typer.Option(
        is_eager=True,
        callback=use_config,
        help="Options from this file, such as the config.toml of a training; those on the command line win.",
        show_default="none",
    ),
]


class Source(NamedTuple):
    """FOLDER or --csv, and what the options say of it; None: nothing. The names are those of the arguments of
    `Samples`."""

    folder: Folder = None
    csv: Csv = None
    pattern: Pattern = None
    level: Level = None
    path: PathColumn = None
    target: Target = None
    label_sep: LabelSep = None
    kind: Kind = None
    root: Root = None
    outside: Outside = None
    encoding: Encoding = None

    @property
    def place(self) -> Path:
        """Where the images are, or their list. Raises WrongOption: nowhere."""
        place = self.csv or self.folder
        if place is None:
            raise WrongOption("FOLDER: expected a folder of images, an archive or a list, got none. Give it, or --csv.")
        return place

    @property
    def is_list(self) -> bool:
        return self.csv is not None or (self.place.name.lower().endswith(LISTS) and not self.place.is_dir())

    def given(self, *names: str) -> dict[str, Any]:
        """Those of these options that were given. Raises WrongOption where another one was."""
        options = {**self._asdict(), "target": self.target or None}  # of none there is an empty list, from --config
        if self.csv is not None and self.folder is not None:
            if self.root is not None:
                raise WrongOption("--root: expected either FOLDER or --root beside --csv, got both. Leave one out.")
            options["root"] = self.folder
        for name in _GOES_WITH:
            if options[name] is not None and name not in names:
                option = f"--{name.replace('_', '-')}"
                raise WrongOption(f"{option}: expected {_GOES_WITH[name]}, got '{self.place}'. Leave {option} out.")
        return {name: options[name] for name in names if options[name] is not None}

    def target_given(self, several: bool) -> dict[str, Any]:
        """`target`, if given: a name, or, where there may be several, a list of them."""
        target = self.target or []
        if len(target) > 1 and not several:
            raise WrongOption(f"--target: expected one for an archive, got {len(target)}. Leave the others out.")
        return {"target": target if len(target) > 1 else target[0]} if target else {}


_GOES_WITH = {
    "pattern": "a folder or an archive",
    "level": "a folder without --pattern",
    "path": "a list (.csv)",
    "target": "a list (.csv) or an archive (.tar)",
    "label_sep": "a list (.csv)",
    "kind": "a list (.csv)",
    "root": "a list (.csv)",
    "outside": "a list (.csv)",
    "encoding": "a list (.csv)",
}


def with_source(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of `Source` where it takes a `source`; as it is where it takes none."""
    own = inspect.signature(command, eval_str=True)
    if "source" not in own.parameters:
        return command

    @functools.wraps(command)
    def wrapped(**options: Any) -> None:
        source = Source(**{name: options.pop(name) for name in Source._fields})
        _ = source.place  # an error if there is none, before torch is imported
        command(source=source, **options)

    hints, parameters = get_type_hints(Source, include_extras=True), list[inspect.Parameter]()
    kind = inspect.Parameter.KEYWORD_ONLY  # an option may be required after those of `Source`, which are not
    for parameter in own.parameters.values():
        if parameter.name != "source":
            parameters.append(parameter.replace(kind=kind))
            continue
        for name, hint in hints.items():
            default = Source._field_defaults.get(name, inspect.Parameter.empty)
            parameters.append(inspect.Parameter(name, kind, default=default, annotation=hint))
    wrapped.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapped
