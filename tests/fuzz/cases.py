"""The fuzzer's cases: files that are damaged by bytes and by grammar, and command lines that use them.

Files begin as the golden networks, the samples and tensors that fit them; they are cut, joined, overwritten and filled
with the words and numbers that their format is made of. The same seed gives the same cases.
"""

from __future__ import annotations

import io
import json
import random
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bnorm.batchnorm.arithmetic import ARITHMETICS
from bnorm.darknet.autodetect import read_model
from bnorm.darknet.cfg import parse
from bnorm.darknet.dialects import DIALECTS
from bnorm.darknet.foreign import FOREIGN
from bnorm.darknet.header import written_by
from bnorm.darknet.layout import plan
from bnorm.darknet.network import build
from bnorm.darknet.section_types import SECTIONS
from bnorm.darknet.vocabulary import KEYS
from bnorm.darknet.weights import open_weights
from bnorm.errors import BnormError
from bnorm.exchange.names import array_names

ROOT = Path(__file__).parents[2]
LAYOUTS, SAMPLES = ROOT / "tests" / "golden" / "layouts", ROOT / "sample_cfgs"
MOST = 1 << 20  # bytes of an input

Draw = random.Random


class Case(NamedTuple):
    """Files by name, and the words of a command line, or none."""

    files: dict[str, bytes]
    command: tuple[str, ...] = ()


# --- damage -----------------------------------------------------------------------------------------------------------


def damaged(draw: Draw, data: bytes, words: list[bytes]) -> bytes:
    """The bytes after some accidents."""
    found = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 3, 5, 9))):
        place = draw.randrange(len(found) + 1)
        end = min(place + draw.choice((0, 1, 2, 4, 8, 30, 200)), len(found))
        kind = draw.randrange(5)
        if kind == 0:
            del found[place:end]
        elif kind == 1:
            found[place:end] = draw.choice(words)
        elif kind == 2:
            found[place:place] = found[place:end] * draw.choice((1, 1, 2, 50))
        elif kind == 3:
            found[place:end] = draw.randbytes(end - place)
        else:
            del found[place:]
            if draw.random() < 0.8:
                found += draw.choice((data, data[place // 2 :]))
        del found[MOST:]
    return bytes(found)


FLOATS = [struct.pack("<f", value) for value in (0, -1, 1e-38, 1e-45, 1e30, 3e38, np.nan, np.inf, -np.inf, -1e-6, 1e-5)]


def other_numbers(draw: Draw, data: bytes) -> bytes:
    """A weights file of the same size with some other numbers, or runs of them."""
    found = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 5, 30))):
        place = 16 + 4 * draw.randrange(max((len(found) - 16) // 4, 1))
        run = draw.choice((1, 1, 1, 4, 64))
        found[place : place + 4 * run] = draw.choice([*FLOATS, draw.randbytes(4)]) * run
    return bytes(found[: len(data)])


def other_file(draw: Draw, data: bytes) -> bytes:
    """Accidents of whole files: opened as text, cut at a float, zeros to the end, a header of the other length."""
    place = 4 * draw.randrange(len(data) // 4 + 1)
    kinds = (
        lambda: data.decode("latin-1").encode(),
        lambda: data.decode("utf-8", "replace").encode(),
        lambda: data[:place],
        lambda: data[:place] + bytes(max(len(data) - place, 600)),
        lambda: data[:16] + data[20:],
        lambda: data[:16] + bytes(4) + data[16:],
        lambda: data + data[-4 * draw.randint(1, 9) :],
        lambda: draw.choice(STARTS) + data[draw.randint(0, 20) :],
    )
    return draw.choice(kinds)()


STARTS = [*(start for row in FOREIGN for start in row.starts[:1]), b"\xef\xbb\xbf", b"some text "]


# --- cfgs -------------------------------------------------------------------------------------------------------------

CFGS = [path.read_bytes() for folder in (LAYOUTS, SAMPLES) for path in sorted(folder.glob("*.cfg"))]
WORDS = [f"[{name}]" for names in SECTIONS.values() for name in names]
WORDS += sorted({key for tables in KEYS.values() for keys in tables.values() for key in keys})
WORDS += [*"=#;,-.+e[]\t\r\n\0", *"linear leaky relu none per_channel per_feature softmax 1e5 0x10 nan".split()]
CFG_WORDS = [word.encode() for word in WORDS]
NUMBERS = "0 1 -1 2 7 8 255 256 32767 65536 16777217 2147483647 2147483648 -2147483648 4294967296 9e9".split()
NUMBERS += ["9" * 19, "9" * 40]


def number(draw: Draw) -> str:
    return draw.choice(NUMBERS) if draw.random() < 0.3 else str(draw.randint(-3, 40))


def other_lines(draw: Draw, lines: list[str]) -> None:
    """One accident of text: a value changed, a line moved, a line of the grammar inserted, a piece repeated."""
    place, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    key, equals, _ = lines[place].partition("=")
    kind = draw.randrange(7)
    if kind == 0 and equals:
        lines[place] = f"{key}={number(draw)}"
    elif kind == 1:
        values = (number(draw) for _ in range(draw.choice((1, 1, 2, 5))))
        lines.insert(place, f"{draw.choice(WORDS)}={','.join(values)}")
    elif kind == 2:
        lines.insert(place, draw.choice(WORDS))
    elif kind == 3:
        lines.insert(place, lines.pop(other))
    elif kind == 4:
        lines[place:place] = lines[other : other + 8]
    elif kind == 5:
        lines[place : place + draw.randint(0, 2)] = draw.choice(SECTION_LINES).split()
    elif len(lines) > 1:
        del lines[place]


SECTION_LINES = """
[batchnorm]
[convolutional] batch_normalize=1 activation=linear filters=3
[convolutional] batch_normalize=1 activation=linear filters=2 binary=1 [batchnorm]
[convolutional] batch_normalize=1 activation=linear size=3 pad=1 antialiasing=1 [batchnorm]
[convolutional] batch_normalize=1 activation=linear filters=2 numload=1 [batchnorm]
[convolutional] batch_normalize=1 activation=linear size=3 flipped=1
[convolutional] batch_normalize=1 activation=linear share_index=0
[convolutional] batch_normalize=1 dontload=1
[batchnorm] [convolutional] groups=2 filters=4
[deconvolutional] batch_normalize=1 activation=linear filters=2 size=2 stride=2
[local] filters=2 size=2 activation=linear [batchnorm]
[connected] output=4 batch_normalize=1 activation=linear
[convolutional] filters=18 activation=linear [yolo] mask=0,1,2 classes=1
[convolutional] filters=21 activation=linear [yolo] mask=0,1,2 classes=1
[route] layers=-1
[route] layers=-1,-2
[shortcut] from=-2 activation=linear
[sam] from=-2
[scale_channels] from=-2
[reorg] stride=2 extra=3
[history] history_size=2
[upsample] stride=0
[crop] crop_height=2 crop_width=2
[avgpool]
a=- b=.. c=
""".strip().splitlines()


def other_cfg(draw: Draw, cfg: bytes) -> bytes:
    """Damaged as bytes, or as text."""
    if draw.random() < 0.4:
        return damaged(draw, cfg, CFG_WORDS)
    lines = cfg.decode().splitlines()
    for _ in range(draw.choice((1, 1, 2, 4, 8))):
        other_lines(draw, lines)
    mark = "\ufeff" if draw.random() < 0.01 else ""
    return (mark + draw.choice(("\n", "\n", "\n", "\n", "\r\n", "\r\n", "\r")).join(lines)).encode()


def any_cfg(draw: Draw) -> Case:
    """A damaged cfg; one in ten is shown and checked by a command."""
    command = words(draw, draw.choice(CFG_COMMANDS)) if draw.random() < 0.1 else ()
    return Case({"net.cfg": other_cfg(draw, draw.choice(CFGS))}, command)


# --- pairs ------------------------------------------------------------------------------------------------------------

LARGE = """
[net] channels=3 height=8 width=8 [convolutional] filters=64 batch_normalize=1 activation=relu
[convolutional] filters=64 size=3 pad=1 batch_normalize=1 activation=linear [batchnorm]
[connected] output=20 activation=linear [batchnorm]
[net] inputs=40 [lstm] output=60 batch_normalize=1 [connected] output=300 batch_normalize=1 activation=linear
[net] channels=64 height=4 width=4 [convolutional] groups=64 filters=256 size=3 batch_normalize=1 binary=1
activation=linear [batchnorm] [convolutional] filters=64 activation=linear batch_normalize=1
"""


class Pair(NamedTuple):
    """A cfg and weights that fit it, and its layers that normalise, with their numbers of channels."""

    cfg: bytes
    weights: bytes
    places: list[tuple[str, int]]


def fitting(cfg: bytes, name: str) -> bytes:
    """Return weights that fit a cfg, or nothing if this dialect refuses it or they are large."""
    dialect = DIALECTS[name]
    with suppress(BnormError):
        count = (plan(build(parse(Path("net.cfg"), cfg), dialect), written_by(dialect)).nbytes - 20) // 4
        if count < MOST // 4:
            return struct.pack("<3iQ", *dialect.version, 640) + np.linspace(0.1, 1, count, dtype="<f4").tobytes()
    return b""


def pair(cfg: Path, weights: Path) -> Pair:
    arrays = [array for array in read_model(cfg, weights).layout.arrays if array.field == "rolling_variance"]
    names = [(f"{array.layer}.{array.part}".rstrip("."), array.size) for array in arrays]
    return Pair(cfg.read_bytes(), weights.read_bytes(), names or [("0", 1)])


def large_pairs(folder: Path) -> Iterator[Pair]:
    """Networks of a few hundred kilobytes, so that sums have more than a few values."""
    cfg, weights = folder / "net.cfg", folder / "net.weights"
    for text in LARGE.replace("\n", " ").split("[net]")[1:]:
        cfg.write_text("[net]\n" + "\n".join(text.split()) + "\n")
        weights.write_bytes(fitting(cfg.read_bytes(), "alexeyab"))
        yield pair(cfg, weights)


def all_pairs() -> list[Pair]:
    found = [(SAMPLES / f"{path.stem}.cfg", path) for path in sorted((ROOT / "sample_weights").glob("*.weights"))]
    found += [(LAYOUTS / f"{path.name.split('.')[0]}.cfg", path) for path in sorted(LAYOUTS.glob("*.weights"))]
    with tempfile.TemporaryDirectory() as folder:
        return [*(pair(*paths) for paths in found), *large_pairs(Path(folder))]


PAIRS = all_pairs()
HEADERS = [struct.pack("<3i", *version) for version in ((0, 1, 0), (0, 2, 0), (0, 2, 5), (2000, 0, 0), (-1, 9, 9))]

# Words in braces are drawn at random.
CFG_COMMANDS = """
inspect net.cfg --format {format} --dialect {dialect}
check net.cfg --format {format} --dialect {dialect}
""".strip().splitlines()
PAIR_COMMANDS = """
inspect net.cfg net.weights --format {format} --dialect {dialect} --epsilon {epsilon}
inspect net.cfg net.weights --channels --format {format} --sort {column} --top 9
inspect net.cfg net.weights --channels --format {format} --epsilon {epsilon}
check net.cfg net.weights --format {format} --dialect {dialect}
check net.cfg net.weights --format {format}
fold net.cfg net.weights --dry-run --bad-variance {policy} --format {format}
fold net.cfg net.weights -o out.weights --bad-variance {policy} --epsilon {epsilon} --dialect {dialect}
fold net.cfg net.weights -o out.weights --bad-variance clamp --layer {layers}
convert net.cfg net.weights -o out.weights --to {target} --dialect {dialect} --format {format}
convert net.cfg net.weights -o out.weights --to {target} --unfold --header {header} --seen {seen}
convert net.cfg net.weights -o out.weights --epsilon-from {epsilon} --epsilon-to {epsilon_b} --bad-variance {policy}
convert net.cfg net.weights --dry-run --unfold --epsilon-to {epsilon_b} --dialect {dialect}
diff net.cfg net.weights net.weights --format {format} --dialect {dialect}
diff net.cfg net.weights other.weights --cfg-b other.cfg --format {format} --all
diff net.cfg net.weights other.weights --cfg-b other.cfg --function --format {format} --epsilon {epsilon}
export net.cfg net.weights -o {export} --dialect {dialect} --dtype {dtype} --epsilon {epsilon} --format {format}
export net.cfg net.weights -o {export} --fold --layer {layers} --names {names} --scale-per {per}
run net.cfg net.weights --layer {place} --input x.npy --train --update-weights new.weights --rolling {rolling}
run net.cfg net.weights --layer {place} --input x.npy --delta x.npy --format {format} --dialect {dialect} -o {output}
""".strip().splitlines()
CHOICES = {
    "format": "table json csv markdown",
    "dialect": "auto auto auto pjreddie alexeyab hank",
    "epsilon": "darknet pjreddie-cpu opencv keras 0 1e-3:outside 1e-30",
    "target": "pjreddie alexeyab hank",
    "header": "16 20",
    "seen": "0 7 2147483648",
    "epsilon_b": "darknet pjreddie-cpu opencv keras 0 1e-3:outside 1e-30",
    "column": "scale gain folded_max state part layer nothing",
    "policy": "clamp clamp skip error",
    "layers": "0 1 0-1 2-3",
    "rolling": "ema average population",
    "export": "out.npz out.safetensors out.wts out.h out",
    "dtype": "float32 float16 int8 int16",
    "names": "bnorm ultralytics eriklindernoren",
    "per": "channel tensor",
    "families": "auto auto bnorm order ultralytics eriklindernoren",
    "output": "out out.npz",
    "arithmetic": " ".join(ARITHMETICS),
    "memory": "16MiB 256MiB",
    "threads": "1 1 2",
}


def words(draw: Draw, line: str, **chosen: str) -> tuple[str, ...]:
    """Return a command line with the words in braces drawn from `CHOICES`, or as chosen."""
    drawn = {name: draw.choice(values.split()) for name, values in CHOICES.items()} | chosen
    return tuple(line.format_map(drawn).split())


def damaged_weights(draw: Draw, weights: bytes) -> bytes:
    return damaged(draw, weights, FLOATS + HEADERS)


def any_pair(draw: Draw) -> Case:
    """A pair, half the time with another cfg that the weights usually fit; damaged weights, and a command."""
    cfg, weights, places = draw.choice(PAIRS)
    place, channels = draw.choice(places)
    kind = draw.random()
    if kind < 0.5:
        cfg = other_cfg(draw, cfg)
    if kind < 0.4:
        weights = fitting(cfg, draw.choice(("alexeyab", "pjreddie", "hank"))) or weights
    damage = draw.choice((other_numbers, other_numbers, damaged_weights, other_file, lambda _, data: data))
    weights = damage(draw, weights)
    command = words(draw, draw.choice(PAIR_COMMANDS), place=place)
    files = {"net.cfg": cfg, "net.weights": weights}
    if "other.cfg" in command:
        other = (cfg, weights) if draw.random() < 0.5 else draw.choice(PAIRS)[:2]
        files |= {"other.cfg": other[0], "other.weights": draw.choice((other_numbers, damaged_weights))(draw, other[1])}
    return Case(
        files | ({"x.npy": npy(values(draw, (2, channels, 3, 1), "f4"))} if "x.npy" in command else {}), command
    )


# --- tensors ----------------------------------------------------------------------------------------------------------


def values(draw: Draw, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Ordinary numbers, arbitrary bits, or a few distinct numbers."""
    count, kind = int(np.prod(shape)), draw.randrange(3)
    if kind == 0:
        return np.random.default_rng(draw.getrandbits(32)).normal(draw.choice((0, 1000)), 1, shape).astype(dtype)
    if kind == 1:
        return np.frombuffer(draw.randbytes(count * np.dtype(dtype).itemsize), dtype).reshape(shape)
    few = np.frombuffer(draw.choice(FLOATS) + draw.choice(FLOATS), "<f4")
    with np.errstate(all="ignore"):
        return np.resize(few, shape).astype(dtype)


def npy(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=version, allow_pickle=True)
    return file.getvalue()


SIZES = ((2**62, 4), (10**30,), (2**31, 2**31), (0, 5), (-1, 3), (1,) * 40, (3, 2), (6,), (1, 1))
HEAD_WORDS = b"'descr' '<f4' '|O' '>f8' True ( ) { } __import__('os') '\\x00'".split()
HEAD_WORDS += [f"({', '.join(map(str, sizes))},)".encode() for sizes in SIZES]


def odd_npy(draw: Draw) -> bytes:
    """A .npy file of any type, shape, order and version, mostly damaged in its header."""
    shape = [draw.randint(0, 4) for _ in range(draw.randint(0, 5))]
    array = np.zeros(shape, draw.choice("f2 f4 f8 >f4 i4 c8 O U3 V8 f4,i4".split()))
    order = np.asfortranarray(array) if draw.random() < 0.2 else array
    data = npy(order, draw.choice(((1, 0), (2, 0), (3, 0))))
    head = draw.choice((80, 128, len(data)))
    return data if draw.random() < 0.2 else damaged(draw, data[:head], HEAD_WORDS) + data[head:]


def tensor_shape(draw: Draw) -> tuple[int, ...]:
    sizes = draw.choice(((1, 2, 3, 5), (1, 2, 3, 5), (1, 7, 64, 65), (1, 1, 300, 2)))
    return tuple(draw.choice(sizes) for _ in range(draw.choice((2, 3, 4, 4))))


PARAMETERS = ("scales", "biases", "rolling_mean", "rolling_variance")
RUN = """run --params p.npz --input x.npy --layout {layout} --arithmetic {arithmetic} --memory {memory}
    --threads {threads} --format {format}"""


def any_tensor(draw: Draw) -> Case:
    """A tensor, usually valid, with a layer that fits and any options."""
    shape = tensor_shape(draw)
    while np.prod(shape) > 1 << 15:
        shape = tensor_shape(draw)
    dtype, layout = draw.choice(("f2", "f4", "f4", "f8")), draw.choice(("nchw", "nchw", "nhwc"))
    first = 0 if len(shape) == 3 else 1
    channels = shape[-1] if layout == "nhwc" else shape[first]
    files = {"x.npy": npy(values(draw, shape, dtype)) if draw.random() < 0.8 else odd_npy(draw)}
    vectors = {name: npy(values(draw, (channels,), "f4")) for name in PARAMETERS}
    command = list(words(draw, RUN, layout=layout))
    if draw.random() < 0.5:
        files["d.npy"] = npy(values(draw, shape, draw.choice(("f4", dtype)))) if draw.random() < 0.9 else odd_npy(draw)
        command += ["--delta", "d.npy"]
    for chance, option in ((0.5, "--train"), (0.3, "--stages"), (0.2, "--input x.npy"), (0.3, "-o {output}")):
        command += words(draw, option) if draw.random() < chance else ()
    if "--train" in command:
        command += words(draw, draw.choice(("", "--rolling {rolling}", "--rolling-keep 0.5")))
    if draw.random() < 0.05:
        files["x.npy"] = values(draw, shape, "f4").tobytes()[: draw.choice((None, None, -1))]
        command += ["--shape", ",".join(map(str, shape))]
    return Case(files | {"p.npz": archive(vectors)}, tuple(command))


def archive(
    members: dict[str, bytes], method: int = zipfile.ZIP_STORED, texts: dict[str, bytes] | None = None
) -> bytes:
    files = {f"{name}.npy": data for name, data in members.items()} | (texts or {})
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as target:
        for name, data in files.items():
            target.writestr(zipfile.ZipInfo(name), data, method)  # not with the time of day
    return file.getvalue()


def any_archive(draw: Draw) -> Case:
    """An archive as parameters or as a tensor, stored or packed, damaged inside or outside, or with extra data."""
    members = {name: npy(values(draw, (3,), draw.choice(("f2", "f4", "f8")))) for name in PARAMETERS}
    members["x"] = npy(values(draw, (2, 3), "f4"))
    for name in list(members):
        kind = draw.randrange(20)
        if kind == 0:
            del members[name]
        elif kind < 4:
            members[name] = odd_npy(draw) if kind < 3 else members[name] + bytes(draw.choice((1, 100, 70_000)))
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    rare = draw.random() < 0.02
    data = archive(members, draw.choice((zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA) if rare else methods))
    if draw.random() < 0.6:
        data = damaged(draw, data, [b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"\xff\xff\xff\xff"])
    command = draw.choice(("run --params p.npz --input p.npz:x", "run --params p.npz --input y.npy --train"))
    return Case({"p.npz": data, "y.npy": Y}, tuple(command.split()))


Y = npy(np.arange(6, dtype="f4").reshape(2, 3))

ABOUT = [
    b'{"layer": "", "inputs": ["a.npy", "y.npy"]}',
    b'{"layer": "", "inputs": ["y.npy"]}',
    b'{"layer": "3", "inputs": []}',
    b'{"inputs": ["a.npy", 7]}',
    b"[" * 9000,
]
ABOUT_WORDS = [b'"layer"', b'"inputs"', b"{", b"]", b"null", b"\\ud800", b"1e999", b"-1"]
LISTS = [b"y.npy\ny.npy\n", b"# a list\r\n\r\n  y.npy  \n", b"y.npy", b"*.npy\n", b"p.npz:scales\n", b""]
FROM_MOMENTS = "run --params p.npz --from-moments m.npz n.npz --rolling {rolling} -o out --format {format}"
TO_MOMENTS = "run --params p.npz --inputs list.txt --moments out.npz --rolling {rolling} --threads {threads}"


def any_moments(draw: Draw) -> Case:
    """Two files of moments, or a list of inputs for a new one, most of them sound."""
    vectors = {name: npy(np.ones(3, "f4")) for name in PARAMETERS}
    files = {"p.npz": archive(vectors), "y.npy": Y, "list.txt": draw.choice(LISTS)}
    files |= {name: moments_file(draw) for name in ("m.npz", "n.npz")}
    if draw.random() < 0.3:
        files["list.txt"] = damaged(draw, files["list.txt"], [b"\0", b"\n", b"y.npy", b"/", b":", b"\xff"])
    return Case(files, words(draw, draw.choice((FROM_MOMENTS, FROM_MOMENTS, TO_MOMENTS))))


def moments_file(draw: Draw) -> bytes:
    shape = draw.choice(((2, 3), (2, 3), (2, 3), (1, 3), (2, 4), (0, 3), (3,)))
    counts = draw.choice(([4, 5], [4, 5], [1, 2], [0.5, 3], [np.nan, 2], [2**53, 2], [1e300, 2], [2]))
    members = {"mean": npy(values(draw, shape, "f8")), "m2": npy(abs(values(draw, shape, "f8")))}
    members["count"] = npy(np.array(counts, "f8"))
    for name in members:
        if draw.random() < 0.1:
            members[name] = odd_npy(draw)
    about = draw.choice(ABOUT[:2] if draw.random() < 0.7 else ABOUT)
    about = damaged(draw, about, ABOUT_WORDS) if draw.random() < 0.2 else about
    data = archive(members, texts={"inputs.json": about})
    return damaged(draw, data, [b"PK\x01\x02", b"PK\x05\x06", b"\xff\xff\xff\xff"]) if draw.random() < 0.2 else data


# --- arrays of other programs -----------------------------------------------------------------------------------------


class Arrays(NamedTuple):
    """A cfg, and arrays that fit it by name."""

    cfg: bytes
    values: dict[str, np.ndarray]


def all_arrays() -> list[Arrays]:
    """The arrays of every sample, and of one of them with the names of a port."""
    found = []
    for weights in sorted((ROOT / "sample_weights").glob("*.weights")):
        cfg = SAMPLES / f"{weights.stem}.cfg"
        model = read_model(cfg, weights)
        families = ("bnorm", "ultralytics", "eriklindernoren") if weights.stem == "detector" else ("bnorm",)
        with open_weights(model) as file:
            for family in families:
                names = array_names(model.network, model.layout.arrays, family)
                values = {name: file[key] for key, name in names.items()}
                found.append(Arrays(cfg.read_bytes(), values))
    return found


ARRAYS = all_arrays()
SAFETENSORS_WORDS = b'"F16" "BF16" "I64" [0,4] [] {} null "dtype" "shape" "data_offsets" "__metadata__" NaN'.split()
SAFETENSORS_WORDS += [b'"0.weights":', b"18446744073709551616", b"-1", b"1e3", b"[" * 2000, b"\0", b" ", b"\\ud800"]
IMPORT = "import net.cfg {arrays} -o out.weights --names {families} --epsilon {epsilon} --dialect {dialect}"


def safetensors(arrays: dict[str, np.ndarray]) -> tuple[bytes, bytes]:
    """The header and the values of a file."""
    header, offset = {}, 0
    codes = {"float16": "F16", "float32": "F32", "float64": "F64"}
    for name, array in arrays.items():
        offsets = [offset, offset + array.nbytes]
        header[name] = {"dtype": codes[array.dtype.name], "shape": list(array.shape), "data_offsets": offsets}
        offset += array.nbytes
    data = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays.values())
    return json.dumps(header).encode(), data


def any_arrays(draw: Draw) -> Case:
    """Arrays that fit a cfg, unchanged or damaged, in each of the formats."""
    cfg, arrays = draw.choice(ARRAYS)
    arrays = dict(arrays)
    for _ in range(draw.choice((0, 0, 1, 2))):
        name = draw.choice(sorted(arrays))
        kind = draw.randrange(4)
        values = arrays.pop(name)
        if kind == 0:
            arrays[name] = values.astype(draw.choice(("f2", "f8")))
        elif kind == 1:
            arrays[name.replace(draw.choice(name), draw.choice("01.w"))] = values
        elif kind == 2:
            arrays[name] = values.reshape(-1) if draw.random() < 0.5 else values[:-1]
    return draw.choice((_as_safetensors, _as_archive, _as_folder))(draw, cfg, arrays)


def _as_safetensors(draw: Draw, cfg: bytes, arrays: dict[str, np.ndarray]) -> Case:
    text, data = safetensors(arrays)
    if draw.random() < 0.6:
        text = damaged(draw, text, SAFETENSORS_WORDS)
    if draw.random() < 0.1:
        data = damaged(draw, data, FLOATS)
    length = draw.choice((0, 2**60, 2**64 - 1, len(text) + 8)) if draw.random() < 0.05 else len(text)
    command = words(draw, IMPORT, arrays="a.safetensors")
    return Case({"net.cfg": cfg, "a.safetensors": struct.pack("<Q", length) + text + data}, command)


def _as_archive(draw: Draw, cfg: bytes, arrays: dict[str, np.ndarray]) -> Case:
    members = {name: odd_npy(draw) if draw.random() < 0.01 else npy(values) for name, values in arrays.items()}
    data = archive(members, draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
    if draw.random() < 0.6:
        data = damaged(draw, data, [b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"\xff\xff\xff\xff"])
    return Case({"net.cfg": cfg, "a.npz": data}, words(draw, IMPORT, arrays="a.npz"))


def _as_folder(draw: Draw, cfg: bytes, arrays: dict[str, np.ndarray]) -> Case:
    files = {f"{name}.npy": npy(values) for name, values in arrays.items()}
    for name in files:
        kind = draw.random()
        if kind < 0.02:
            files[name] = odd_npy(draw) if kind < 0.01 else damaged(draw, files[name], HEAD_WORDS)
    return Case({"net.cfg": cfg, **files}, words(draw, IMPORT, arrays="."))


# --- command lines ----------------------------------------------------------------------------------------------------

OPTIONS = """--layer --dialect --format --epsilon --bad-variance --memory --threads --shape --layout --input --delta
    --arithmetic --rolling --rolling-keep --train --stages --dry-run --no-verify --channels --sort --top --strict --list
    --to --epsilon-from --epsilon-to --header --seen --unfold --cfg-b --function --epsilon-b --all --dialect-b --names
    --dtype --fold --scale-per --keep-batchnorm --opset --update-weights --params --output --output-cfg --force --plot
    --moments --from-moments --inputs -o -h --help --version --""".split()
VALUES = """0 1-2 3.wf 1e-5:outside alexeyab json csv markdown 16MiB 1,2,3 nhwc - . out out.npz out.png net.cfg
    net.weights y.npy gain gain:asc 999999999999999999999999999999""".split()
SAMPLE = PAIRS[0]


def any_arguments(draw: Draw) -> Case:
    """A valid pair and any words."""
    paths = ["net.cfg", "net.weights"][: draw.choice((0, 1, 2, 2, 2))]
    found = [draw.choice(("inspect", "fold", "convert", "diff", "run", "check", "export", "import", "none")), *paths]
    for _ in range(draw.randint(0, 5)):
        found.append(draw.choice(OPTIONS))
        value = draw.choice(VALUES)
        if draw.random() < 0.3:
            value = damaged(draw, value.encode(), [b"-", b"0", b"\xc3\xa9", b",", b"."]).decode(errors="replace")
        if draw.random() < 0.8 and "/" not in value:
            found.append(value.replace("\0", ""))
    return Case({"net.cfg": SAMPLE.cfg, "net.weights": SAMPLE.weights, "y.npy": Y}, tuple(found))


TARGETS: dict[str, Callable[[Draw], Case]] = {
    "cfg": any_cfg,
    "pair": any_pair,
    "npy": any_tensor,
    "npz": any_archive,
    "arrays": any_arrays,
    "moments": any_moments,
    "arguments": any_arguments,
}


def cases(name: str, seed: int, runs: int) -> Iterator[Case]:
    """The target's cases for this seed."""
    for run in range(runs):
        yield TARGETS[name](Draw(f"{name} {seed} {run}"))
