"""Settings of an extraction: what decides the bytes (ExtractSettings), and how the work is done (WorkerSettings)."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any, Literal, TypedDict, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from manifests.records import GradientCoding, InputError

# benchmarks/store_video.py compares distances, qualities and kinds of coding.
VIDEO_CRF = 20
VIDEO_GOP = 3
DECODERS = ("pyav", "opencv", "decord")
# Quirks of the reference code by name, and the settings that they imply (docs/migrating.md).
COMPAT: dict[str, dict[str, object]] = {
    "opencv_frames": {"decoder": "opencv", "space": "rgb", "subsampling": "420"},
    "gradient_of_jpeg": {"gradient_source": "jpeg", "space": "rgb"},
    "flow_magnitude": {},
}
# Values that data sets had before the setting existed, if they are not today's defaults.
EARLIER: dict[str, Any] = {"encoder": "libjpeg", "tune": "none"}


def decoder_of(stored: object, typed: str | None, place: object) -> str:
    """The decoder to use for a data set or a run that names `stored`: a built-in one, or the user's own if it is `typed`, too.

    What a data set or a run names is data: code runs only if the user names it. place: where `stored` stands, for messages.
    """
    if typed is not None and typed != stored:
        raise InputError(
            f"--decoder {typed}: {place} names the decoder {stored!r}. Name the same one, or leave --decoder out."
        )
    if typed is None and stored not in DECODERS:
        advice = f"If you know and trust it, add --decoder {shlex.quote(str(stored))}."
        raise InputError(
            f"{place} names the decoder {stored!r}, which is none of {', '.join(DECODERS)}. A file cannot name code that runs "
            f"here, so it is not called. {advice}"
        )
    return str(stored)


class ExtractSettings(BaseModel):
    """Everything that the output bytes depend on, besides the videos. Stored in dataset.json; a resumed run must match it."""

    # The docstring under a field is its --help text.
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    store: Literal["frames", "video"] = "frames"
    """store every frame as a JPEG, or one short-GOP H.264 video a sample (a tenth of the bytes, for Kinetics)"""
    quality: int = Field(default=95, ge=1, le=100)
    """JPEG quality of the stored frames"""
    subsampling: Literal["420", "422", "444"] = "420"
    """chroma subsampling of the stored frames"""
    short_side: int = Field(default=0, ge=0)
    """scale frames down to this shorter side in pixels (0: keep the size); with --store video it is 256 unless given"""
    space: Literal["ycbcr420", "rgb"] = "ycbcr420"
    """colour space from decoder to JPEG: the decoder's own planes, or RGB frames"""
    encoder: Literal["fused", "libjpeg"] = "fused"
    """JPEG encoder of planes: frame and gradient together from one cosine transform, or libjpeg-turbo one after the other"""
    gradient: Literal["stored", "derived"] = "stored"
    """store TG frames, or compute them from the RGB frames while reading"""
    gradient_source: Literal["decoded", "jpeg"] = "decoded"
    """compute TG from the decoded frames, or from the stored JPEGs as the reference code does"""
    crf: int = Field(default=0, ge=0, le=51)
    """--store video: constant rate factor of x264, lower is better and larger (0: 20)"""
    gop: int = Field(default=0, ge=0, le=250)
    """--store video: frames from one self-contained picture to the next (0: 3)"""
    tune: Literal["none", "reading"] = "none"
    """--store video: reading (its default) makes all pictures of a video equally good, which decodes faster; none is x264's
    own way, as in data sets made before this option"""
    flow: Literal["none", "dis", "farneback"] = "none"
    """also store optical flow (magnitude, y, x) of neighbouring frames, by this method"""
    compat: str = ""
    """quirks of the reference code to reproduce, separated by commas: opencv_frames, gradient_of_jpeg, flow_magnitude"""
    decoder: str = "pyav"
    """pyav, opencv, decord, or your own as `package.module:function`"""
    on_damage: Literal["keep", "fail"] = "keep"
    """a video with damaged packets: keep the frames that decode, with a note, or fail it"""
    videos_per_shard: int = Field(default=0, ge=0)
    """videos in a shard (0: from the size of the data set, 8 to 64)"""

    @field_validator("decoder")
    @classmethod
    def _known_decoder(cls, name: str) -> str:
        if name not in DECODERS and ":" not in name:
            raise ValueError(f"decoder {name!r} is unknown: {', '.join(DECODERS)}, or `package.module:function`")
        return name

    @field_validator("compat")
    @classmethod
    def _known_quirks(cls, names: str) -> str:
        quirks = [name.strip() for name in names.split(",") if name.strip()]
        if unknown := [name for name in quirks if name not in COMPAT]:
            raise ValueError(f"compat {', '.join(unknown)} is unknown: one or more of {', '.join(COMPAT)}")
        return ",".join(sorted(set(quirks)))

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, given: Any) -> Any:
        """Add the settings that others imply, unless they are given."""
        if not isinstance(given, dict):
            return given
        values: dict[str, Any] = dict(given)
        # Quirks stand for other settings, which may not contradict them.
        for quirk in str(values.get("compat", "")).split(","):
            for name, value in COMPAT.get(quirk.strip(), {}).items():
                if values.setdefault(name, value) != value:
                    option = f"--{name.replace('_', '-')}"
                    raise ValueError(f"{quirk.strip()} stands for {option} {value}, got {option} {values[name]}")
        # Only PyAV gives planes, planes are 4:2:0, and TG of decoded JPEGs is RGB.
        not_planes = (
            str(values.get("decoder", "pyav")) != "pyav"
            or values.get("subsampling", "420") != "420"
            or values.get("gradient_source") == "jpeg"
        )
        if not_planes:
            values.setdefault("space", "rgb")
        # Stored videos are for large data sets: a small picture, and no second video for TG.
        if values.get("store") == "video":
            values = {"short_side": 256, "gradient": "derived", **values}
            values["crf"] = values.get("crf") or VIDEO_CRF
            values["gop"] = values.get("gop") or VIDEO_GOP
            values.setdefault("tune", "reading")
        # The fused encoder takes planes and makes JPEG files.
        if values.get("space", "ycbcr420") != "ycbcr420" or values.get("store") == "video":
            values.setdefault("encoder", "libjpeg")
        return values

    @model_validator(mode="after")
    def _check_combinations(self) -> ExtractSettings:
        video, planes, fused = self.store == "video", self.space == "ycbcr420", self.encoder == "fused"
        stored_tg, jpeg_tg = self.gradient == "stored", self.gradient_source == "jpeg"
        not_420 = self.subsampling != "420"
        magnitude = "flow_magnitude" in self.compat.split(",")
        rules = (
            (not video and self.crf, "--crf applies to stored videos: add --store video, or leave it out"),
            (not video and self.gop, "--gop applies to stored videos: add --store video, or leave it out"),
            (not video and self.tune != "none", "--tune applies to stored videos: add --store video, or leave it out"),
            (video and stored_tg, "--store video computes TG while reading: leave --gradient stored out"),
            (video and jpeg_tg, "--store video stores no JPEG to compute TG from: leave --gradient-source out"),
            (
                video and self.quality != 95,
                "--quality applies to JPEG files; --store video has --crf (lower is better)",
            ),
            (video and not_420, f"--store video stores 4:2:0; --subsampling {self.subsampling} applies to JPEG files"),
            (
                magnitude and self.flow == "none",
                "compat flow_magnitude applies to stored flow: add --flow dis or farneback",
            ),
            (planes and not_420, f"space ycbcr420 stores 4:2:0 frames; subsampling {self.subsampling} needs space rgb"),
            (
                planes and self.decoder in ("opencv", "decord"),
                f"decoder {self.decoder} gives RGB frames only; use space rgb",
            ),
            (planes and stored_tg and jpeg_tg, "gradient source jpeg is computed on RGB frames; use space rgb"),
            (fused and video, "--store video stores no JPEG files: leave --encoder out"),
            (fused and not planes, "--encoder fused takes planes, not RGB frames: leave it out, or --space rgb"),
        )
        for broken, message in rules:
            if broken:
                raise ValueError(message)
        return self

    @property
    def coding(self) -> GradientCoding:
        """How TG is computed, for readers of the data set."""
        if self.store == "video":
            return GradientCoding(source="video", space="rgb", stored=False)
        if self.gradient == "derived":
            return GradientCoding(source="jpeg", space="rgb", stored=False)
        return GradientCoding(source=self.gradient_source, space=self.space)


class WorkerSettings(BaseModel):
    """How the work is done on this machine; never changes a byte of the output."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    threads: int = Field(default=0, ge=0)
    """worker processes, one decoder thread each (0: one per core)"""
    timeout_seconds: float = Field(default=120.0, gt=0)
    """give up on a video whose decoder shows no frame for this long"""
    max_video_seconds: float = Field(default=21600.0, ge=0)
    """give up on a video that takes longer than this in all, such as one whose decoder never ends (0: no limit)"""
    max_memory_mb: int = Field(default=4096, ge=512)
    """give up on a video for which a worker takes more than this many MB"""
    max_failures: int = Field(default=-1, ge=-1)
    """stop once more videos than this have failed (-1: never)"""
    engine: Literal["local", "dask"] = "local"
    """write shards on this machine, or on a Dask cluster"""
    scheduler: str = ""
    """address of the Dask scheduler, such as tcp://host:8786"""
    scratch: str = ""
    """local folder for unfinished work (empty: OUT/.tgprep, or the temporary folder if OUT is a URL)"""

    @model_validator(mode="after")
    def _check_scheduler(self) -> WorkerSettings:
        if (self.engine == "dask") != bool(self.scheduler):
            raise ValueError("--engine dask and --scheduler ADDRESS go together")
        return self


Model = TypeVar("Model", bound=BaseModel)


def build(model: type[Model], values: Mapping[str, Any]) -> Model:
    """Make settings of those values that they have and that are given (not None); InputError with all mistakes in one message."""
    given = {name: value for name, value in values.items() if name in model.model_fields and value is not None}
    try:
        return model(**given)
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            where = "--" + str(problem["loc"][0]).replace("_", "-") + ": " if problem["loc"] else ""
            problems.append(f"{where}{problem['msg'].removeprefix('Value error, ')}")
        raise InputError("; ".join(problems) + ".") from None


class ExtractOptions(TypedDict, total=False):
    """The keywords of `tgprep.extract` for both kinds of settings, which explain them: name and type of each field."""

    store: Literal["frames", "video"]
    quality: int
    subsampling: Literal["420", "422", "444"]
    short_side: int
    space: Literal["ycbcr420", "rgb"]
    encoder: Literal["fused", "libjpeg"]
    gradient: Literal["stored", "derived"]
    gradient_source: Literal["decoded", "jpeg"]
    crf: int
    gop: int
    tune: Literal["none", "reading"]
    flow: Literal["none", "dis", "farneback"]
    compat: str
    decoder: str
    on_damage: Literal["keep", "fail"]
    videos_per_shard: int
    threads: int
    timeout_seconds: float
    max_video_seconds: float
    max_memory_mb: int
    max_failures: int
    engine: Literal["local", "dask"]
    scheduler: str
    scratch: str
