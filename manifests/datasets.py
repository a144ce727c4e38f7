"""The known data sets: their class lists, and rules for names, labels, groups and subsets."""

from __future__ import annotations

import functools
import re
import unicodedata
from importlib import resources

KINETICS = ("kinetics400", "kinetics600", "kinetics700")
OFFICIAL = ("ucf101", "hmdb51", *KINETICS)  # data sets with published split lists
DATASETS = (*OFFICIAL, "folder", "csv")

UCF_NAME = re.compile(r"^v_(?P<class>[A-Za-z]+)_g\d{2,}_c\d{2,}$")
# The end of a name of HMDB51: body part, camera, persons, view, quality, number.
HMDB_ENDING = re.compile(r"_[a-z]_[cn]m_np\d+_[a-z]{2}_[a-z]{3}_\d+$")
KINETICS_NAME = re.compile(r"^(?P<id>[A-Za-z0-9_-]{11})(?:_(?P<start>\d{6})_(?P<end>\d{6}))?$")
_GROUP = re.compile(r"(?:^|_)(g\d{2,})(?=_|$)")
_SOURCE = re.compile(r"^.*?(?:^|_)g\d{2,}(?=_|$)")
SUBSET_NAMES = dict.fromkeys(("train", "training", "trn"), "train")
SUBSET_NAMES |= dict.fromkeys(("val", "validate", "valid", "validation", "dev", "devel", "development"), "val")
SUBSET_NAMES |= dict.fromkeys(("test", "testing", "tst"), "test")
_UNLABELLED = frozenset(("unlabeled", "unlabelled", "unannotated"))
# Words beside that of the subset in the names of folders.
_COMMON = re.compile(
    r"videos?|frames?|rawframes|clips?|data|raw|sets?|split|compress|k[467]00|kinetics\d*|[467]00|\d{3}(?:p|x\d+)?"
    r"|rgb|jpe?gs?|images?|imgs?|avi|mp4|label+ed"
)
_JOINED = re.compile(rf"({'|'.join(SUBSET_NAMES)}|{'|'.join(_UNLABELLED)})({_COMMON.pattern})")
_JOINED_BEHIND = re.compile(rf"({_COMMON.pattern})({'|'.join(SUBSET_NAMES)})")
# Of containers and of raw streams that FFmpeg decodes, in lower case; cameras and recorders have names of their own.
VIDEO_EXTENSIONS = frozenset(
    """264 265 266 360 3g2 3gp 3gp2 3gpp amv apv asf av1 avc avi bik cavs dav dif divx drc dv dvr-ms evc evo f4v flc fli flv gif gxf
    h261 h263 h264 h265 h266 h26l hevc insv ismv ivf lrf lrv m1v m2p m2t m2ts m2v m4v mj2 mjpeg mjpg mk3d mkv mod mov mp2v mp4 mp4v
    mpe mpeg mpg mpv mpv2 mts mxf nsv nut obu ogm ogv ogx ps qt rcv rm rmvb roq rv smk tod tp trp ts vc1 vc2 vob vro vvc webm wmv
    wtv xvid y4m""".split()  # noqa: SIM905
)


@functools.cache
def class_list(dataset: str) -> tuple[str, ...]:
    """The official class names; line number = label. Empty if the data set has its own (Kinetics-600, folder, csv)."""
    file = resources.files("manifests") / "classes" / f"{dataset}.txt"
    return tuple(file.read_text("utf-8").split("\n")[:-1]) if file.is_file() else ()


def nfc(name: str) -> str:
    """Convert a name to composed Unicode (NFC), for comparisons: a Mac writes `ü` as two characters, `u` and its dots."""
    return unicodedata.normalize("NFC", name)


def clean_class(name: str) -> str:
    """Convert a Kinetics label to a folder and class name: no double quotes, `_` for spaces."""
    return name.strip().replace('"', "").replace(" ", "_")


@functools.lru_cache(maxsize=65536)
def folded_class(name: str) -> str:
    """Normalise a class name for comparison (`HandStandPushups` equals `HandstandPushups`)."""
    return nfc(clean_class(name)).lower()


def words_of(name: str) -> list[str]:
    """Divide a name into its words, in lower case: `Train_Videos`, `TrainVideos` and `trainvideos` are `train`, `videos`."""
    apart = re.sub("(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    words: list[str] = []
    for word in re.split(r"[_\-. ]+", apart.lower()):
        match = _JOINED.fullmatch(word) or _JOINED_BEHIND.fullmatch(word)
        words += match.groups() if match and word not in SUBSET_NAMES else [word]
    return words


@functools.lru_cache(maxsize=65536)
def subset_of_folder(name: str) -> str:
    """Detect the subset in a folder's name (`train`, `videos_val`, `TestVideos`, `val_256`); "" if there is none."""
    parts = words_of(name)
    found = {SUBSET_NAMES[part] for part in parts if part in SUBSET_NAMES}
    others = [part for part in parts if part not in SUBSET_NAMES]
    return found.pop() if len(found) == 1 and all(_COMMON.fullmatch(part) for part in others) else ""


@functools.lru_cache(maxsize=65536)
def is_unlabelled(name: str) -> bool:
    """Whether a folder's name says that its videos have no class (`unlabeled`, `train_unlabelled`)."""
    parts = words_of(name)
    others = [part for part in parts if part not in _UNLABELLED]
    return len(others) < len(parts) and all(part in SUBSET_NAMES or _COMMON.fullmatch(part) for part in others)


@functools.lru_cache(maxsize=65536)
def is_common(name: str) -> bool:
    """Whether a folder's name says what is in it, not which class (`videos`, `rgb_frames`, `labeled`); a number alone may be a class."""
    parts = words_of(name)
    return all(map(_COMMON.fullmatch, parts)) and not all(part.isdigit() for part in parts)


def class_of_name(dataset: str, stem: str, classes: tuple[str, ...]) -> str:
    """Detect the class in a file name (UCF101, HMDB51), for copies without class folders; "" if there is none."""
    if dataset == "ucf101" and (match := UCF_NAME.match(stem)):
        lower = match["class"].lower()
        return next((name for name in classes if name.lower() == lower), "")
    if dataset == "hmdb51" and (match := HMDB_ENDING.search(stem)):
        head = stem[: match.start()].lower()
        fitting = [name for name in classes if head == name or head.endswith(f"_{name}")]
        return max(fitting, key=len, default="")
    return ""


def name_fits(dataset: str, stem: str) -> bool:
    """Whether a file name has the data set's form."""
    form = {"ucf101": UCF_NAME, "hmdb51": HMDB_ENDING}.get(dataset, KINETICS_NAME)
    return form.search(stem) is not None


def has_times(stem: str) -> bool:
    """Whether a name is an id of Kinetics with the times of the clip behind it."""
    match = KINETICS_NAME.match(stem)
    return match is not None and match["start"] is not None


def size_fits(dataset: str, num_classes: int) -> bool:
    """Whether a Kinetics may have that number of classes, which alone distinguishes Kinetics-600 from Kinetics-700."""
    if dataset not in KINETICS or class_list(dataset):
        return True
    smaller = KINETICS[KINETICS.index(dataset) - 1]
    return int(smaller.removeprefix("kinetics")) < num_classes <= int(dataset.removeprefix("kinetics"))


def group_of(dataset: str, class_name: str, stem: str) -> str:
    """Detect the source of a clip: `g07` of `_g07_` in a name; for HMDB51 the name before the class. "" if there is none."""
    if dataset == "hmdb51":
        match = HMDB_ENDING.search(stem)
        head = stem[: match.start()] if match else ""
        ending = f"_{class_name}".lower()
        return head[: -len(ending)] if head.lower().endswith(ending) else ""
    if dataset in ("ucf101", "folder") and (match := _GROUP.search(stem)):
        return match[1]
    return ""


def source_of_name(stem: str) -> str:
    """The source in a clip's name: `v_Archery_g07` of `v_Archery_g07_c01`, the id of a name with Kinetics' times; "" if there is none."""
    if has_times(stem):
        return KINETICS_NAME.sub(r"\g<id>", stem)
    match = _SOURCE.match(stem)
    return match[0] if match else ""


def groups_span_classes(dataset: str) -> bool:
    """Whether a group name means one source in all classes (an actor, a film), or another source in each class.

    UCF101 numbers g01 to g25 within each class; HMDB51 names the film or clip; a csv's group is the user's own name.
    """
    return dataset in ("hmdb51", "csv")


def tested_subset(dataset: str, subsets: set[str]) -> str:
    """The official subset for reported figures: `test`, else `val`; always `val` for Kinetics (its test labels are secret)."""
    if dataset in KINETICS and "val" in subsets:
        return "val"
    return "test" if "test" in subsets else "val"
