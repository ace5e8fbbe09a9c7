"""Where inputs lie: this disk, a bucket or server behind a URL, a dataset of the hub."""

from __future__ import annotations

import contextlib
import io
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import parse_qs, urlsplit

from nll._errors import BadFile, BadInput, MissingExtra, first_line
from nll.runs._formats import Cell, Pick

SUFFIXES = (".txt", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
PACKED = (".gz", ".bz2", ".zst", ".lz4", ".xz")
_DATASET_OPTIONS = ("config", "revision", "split")


def is_url(given: str) -> bool:
    """Whether this is no path of this machine: s3://, gs://, https://, hf://, memory://, ..."""
    return "://" in given


def is_dataset(given: str) -> bool:
    """`hf://NAME?split=...`; files of the hub are `hf://datasets/NAME/FILE`."""
    return given.startswith("hf://") and not given.startswith("hf://datasets/")


def suffix_of(path: str) -> str:
    """What kind of file it is by its name, whatever it is packed with: `.jsonl` for a.jsonl.gz."""
    name = Path(urlsplit(path).path if is_url(path) else path)
    packed = name.suffix.lower() in PACKED
    return Path(name.stem).suffix.lower() if packed else name.suffix.lower()


def listed(path: Path, inside: Path) -> bool:
    """Whether a file found in a folder is an input: by its name, and not a run's own or hidden."""
    parts = path.relative_to(inside).parts
    return (
        suffix_of(path.name) in SUFFIXES
        and not path.name.endswith(".rejected.jsonl")
        and not any(part.startswith(".") for part in parts)
        and not any(part.endswith(".partial") for part in parts[:-1])
    )


def url_files(url: str) -> list[str]:
    """The files behind a URL: itself, or those of a folder in sorted order.

    Raises BadInput when nothing is there, MissingExtra when its kind of place needs a package.
    """
    if is_dataset(url):
        return [url]
    from pyarrow import fs

    system, path = _system(url)
    scheme = url.split("://", 1)[0]
    with _told(url):
        (found,) = system.get_file_info([path])
        if found.type == fs.FileType.File:
            return [url]
        if found.type == fs.FileType.NotFound:
            raise BadInput(f"{url}: no such file or folder")
        inside = system.get_file_info(fs.FileSelector(path, recursive=True))
    root = Path("/" + path.strip("/"))
    files = sorted(
        f"{scheme}://{info.path.lstrip('/') if scheme != 'file' else info.path}"
        for info in inside
        if info.is_file and listed(Path("/" + info.path.lstrip("/")), root)
    )
    if not files:
        raise BadInput(f"the folder {url} holds no texts ({' '.join(SUFFIXES)})")
    return files


@contextlib.contextmanager
def reading(path: str) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked, as they are read. Raises BadFile when it is damaged."""
    packed = Path(urlsplit(path).path if is_url(path) else path).suffix.lower()
    with contextlib.ExitStack() as stack:
        if not is_url(path) and packed not in PACKED:
            yield stack.enter_context(Path(path).open("rb"))
            return
        with _told(path):
            raw: Any
            if is_url(path):
                system, inner = _system(path)
                raw = stack.enter_context(system.open_input_stream(inner, compression=None))
            else:
                raw = stack.enter_context(Path(path).open("rb"))
            yield stack.enter_context(_unpacked(raw, packed))


def table_source(path: str) -> Any:
    """What a Parquet reader opens: the path, or a file that is read in pieces behind a URL."""
    if not is_url(path):
        return path
    system, inner = _system(path)
    with _told(path):
        return system.open_input_file(inner)


def dataset_cells(url: str, pick: Pick) -> Iterator[Cell]:
    """The rows of `hf://NAME?split=train&config=...&revision=...`, streamed; NAME may be a folder.

    Raises MissingExtra without the package `datasets`, BadInput for one that cannot be had.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise MissingExtra(f'{url} needs datasets; run: pip install "nll[train]"') from None
    name, _, query = url.removeprefix("hf://").partition("?")
    asked = {key: values[-1] for key, values in parse_qs(query).items()}
    unknown = sorted(set(asked) - set(_DATASET_OPTIONS))
    if unknown:
        raise BadInput(f"{url}: '{unknown[0]}' is none of {', '.join(_DATASET_OPTIONS)}")
    try:
        found = load_dataset(
            name, asked.get("config"), split=asked.get("split", "train"),
            revision=asked.get("revision"), streaming=True,
        )  # fmt: skip
        held = found.column_names or list(next(iter(found), {}))
    except Exception as error:  # noqa: BLE001 - the hub's client raises its own kinds
        raise BadInput(f"{url} cannot be read: {first_line(error)}") from None
    wanted = pick(held)
    for number, row in enumerate(found, 1):
        yield Cell(number, {key: row[key] for key in wanted})


def _system(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path in it: pyarrow's own, or one of fsspec."""
    from pyarrow import fs

    scheme = url.split("://", 1)[0]
    if scheme in ("file", "s3", "gs", "gcs", "hdfs"):
        try:
            system, path = fs.FileSystem.from_uri(url)
        except (OSError, ValueError) as error:
            raise BadInput(f"{url} cannot be read: {first_line(error)}") from None
        return system, path
    try:
        import fsspec

        found, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise MissingExtra(f"{url} needs a package that is not installed: {error}") from None
    except ValueError as error:
        raise BadInput(f"{url} cannot be read: {error}") from None
    return fs.PyFileSystem(fs.FSSpecHandler(found)), path


def _unpacked(raw: Any, packed: str) -> Any:
    import pyarrow as pa

    if packed == ".xz":
        return io.BufferedReader(cast(Any, lzma.LZMAFile(raw)))
    if packed in PACKED:
        codec = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}[packed]
        return io.BufferedReader(pa.CompressedInputStream(raw, codec))
    return io.BufferedReader(raw)


@contextlib.contextmanager
def _told(path: str) -> Iterator[None]:
    """What a file system says of a file that is damaged or cannot be reached, in one line."""
    try:
        yield
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise BadFile(f"{path} cannot be read: {first_line(error)}") from None
