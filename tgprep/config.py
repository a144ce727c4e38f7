"""Settings of an extraction: what decides the bytes (ExtractSettings) and what only decides how the work is done (WorkerSettings)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from manifests.records import GradientCoding

# benchmarks/store_video.py compares distances, qualities and kinds of coding.
VIDEO_CRF = 19
VIDEO_GOP = 8
DECODERS = ("pyav", "opencv", "decord")
# What the reference code does to stored frames, by name -> the settings that it comes to (docs/migrating.md).
COMPAT: dict[str, dict[str, object]] = {
    "opencv_frames": {"decoder": "opencv", "space": "rgb", "subsampling": "420"},
    "gradient_of_jpeg": {"gradient_source": "jpeg", "space": "rgb"},
    "flow_magnitude": {},
}


# What data sets had before a setting was there, where it is not today's default.
EARLIER: dict[str, Any] = {"encoder": "libjpeg"}


class ExtractSettings(BaseModel):
    """Everything that the output bytes depend on, besides the videos. Kept in dataset.json; a resumed run must match it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: Literal["frames", "video"] = Field(
        "frames",
        description="keep every frame as a JPEG, or one short-GOP H.264 video a sample (a tenth of the bytes, for Kinetics)",
    )
    quality: int = Field(95, ge=1, le=100, description="JPEG quality of the stored frames")
    subsampling: Literal["420", "422", "444"] = Field("420", description="chroma subsampling of the stored frames")
    short_side: int = Field(
        0,
        ge=0,
        description="scale frames down to this shorter side in pixels (0: keep the size); with --store video it is 256 unless given",
    )
    space: Literal["ycbcr420", "rgb"] = Field(
        "ycbcr420", description="colour space of the path from decoder to JPEG: the decoder's own planes, or RGB frames"
    )
    encoder: Literal["fused", "libjpeg"] = Field(
        "fused",
        description="what makes JPEG files of planes: frame and gradient together from one cosine transform, or libjpeg-turbo one after the other",
    )
    gradient: Literal["stored", "derived"] = Field(
        "stored", description="store TG frames, or compute them from the RGB frames while reading"
    )
    gradient_source: Literal["decoded", "jpeg"] = Field(
        "decoded", description="compute TG from the decoded frames, or from the stored JPEGs as the reference code does"
    )
    crf: int = Field(
        0,
        ge=0,
        le=51,
        description=f"--store video: constant rate factor of x264, lower is better and larger (0: {VIDEO_CRF})",
    )
    gop: int = Field(
        0,
        ge=0,
        le=250,
        description=f"--store video: frames from one self-contained picture to the next (0: {VIDEO_GOP})",
    )
    flow: Literal["none", "dis", "farneback"] = Field(
        "none", description="also store optical flow (magnitude, y, x) of neighbouring frames, by this method"
    )
    compat: str = Field(
        "",
        description=f"quirks of the reference code to reproduce in what is stored, separated by commas: {', '.join(COMPAT)}",
    )
    decoder: str = Field("pyav", description="pyav, opencv, decord, or your own as `package.module:function`")
    on_damage: Literal["keep", "fail"] = Field(
        "keep", description="a video with damaged packets: keep the frames that decode, with a note, or fail it"
    )
    videos_per_shard: int = Field(0, ge=0, description="videos in a shard (0: from the size of the data set, 8 to 64)")

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
    def _encoder_follows(cls, values: dict[str, object]) -> dict[str, object]:
        """Only planes can be encoded fused, and stored videos have no JPEG files: elsewhere libjpeg-turbo is implied.

        The first of these functions is called last, and sees what the others imply.
        """
        if not isinstance(values, dict) or "encoder" in values:
            return values
        planes = values.get("space", "ycbcr420") == "ycbcr420" and values.get("store") != "video"
        return values if planes else {**values, "encoder": "libjpeg"}

    @model_validator(mode="before")
    @classmethod
    def _compat_follows(cls, values: dict[str, object]) -> dict[str, object]:
        """Most quirks are no more than other settings; these may not be given otherwise as well."""
        if not isinstance(values, dict) or not isinstance(values.get("compat"), str):
            return values
        for quirk in str(values["compat"]).split(","):
            for name, value in COMPAT.get(quirk.strip(), {}).items():
                if values.setdefault(name, value) != value:
                    option = f"--{name.replace('_', '-')}"
                    raise ValueError(f"{quirk.strip()} stands for {option} {value}, got {option} {values[name]}")
        return values

    @model_validator(mode="before")
    @classmethod
    def _video_follows(cls, values: dict[str, object]) -> dict[str, object]:
        """What `--store video` is for implies a small picture, and no second video for TG."""
        if isinstance(values, dict) and values.get("store") == "video":
            implied = {"short_side": 256, "gradient": "derived"}
            return {**implied, **values, "crf": values.get("crf") or VIDEO_CRF, "gop": values.get("gop") or VIDEO_GOP}
        return values

    @model_validator(mode="before")
    @classmethod
    def _space_follows(cls, values: dict[str, object]) -> dict[str, object]:
        """Only PyAV gives planes, planes are 4:2:0, and TG of re-decoded JPEGs is RGB: these settings imply the RGB path."""
        if isinstance(values, dict) and "space" not in values:
            other_decoder = str(values.get("decoder", "pyav")) != "pyav"
            if other_decoder or values.get("subsampling", "420") != "420" or values.get("gradient_source") == "jpeg":
                return {**values, "space": "rgb"}
        return values

    @model_validator(mode="after")
    def _store_possible(self) -> ExtractSettings:
        if self.store == "frames":
            for name in ("crf", "gop"):
                if getattr(self, name):
                    raise ValueError(f"--{name} is of stored videos: add --store video, or leave it out")
            return self
        if self.gradient == "stored":
            raise ValueError(
                "--store video computes TG from the stored video while reading: leave --gradient stored out"
            )
        if self.gradient_source == "jpeg":
            raise ValueError("--store video stores no JPEG to compute TG from: leave --gradient-source out")
        if self.quality != 95:
            raise ValueError("--quality is of JPEG files; the quality of --store video is --crf (lower is better)")
        if self.subsampling != "420":
            raise ValueError(f"--store video stores 4:2:0; --subsampling {self.subsampling} is for JPEG files")
        return self

    @model_validator(mode="after")
    def _flow_possible(self) -> ExtractSettings:
        if "flow_magnitude" in self.compat.split(",") and self.flow == "none":
            raise ValueError("compat flow_magnitude is of stored flow: add --flow dis or --flow farneback")
        return self

    @model_validator(mode="after")
    def _space_possible(self) -> ExtractSettings:
        if self.space == "ycbcr420" and self.subsampling != "420":
            raise ValueError(f"space ycbcr420 stores 4:2:0 frames; subsampling {self.subsampling} needs space rgb")
        if self.space == "ycbcr420" and self.decoder in ("opencv", "decord"):
            raise ValueError(f"decoder {self.decoder} gives RGB frames only; use space rgb")
        if self.space == "ycbcr420" and self.gradient == "stored" and self.gradient_source == "jpeg":
            raise ValueError("gradient source jpeg is computed on RGB frames; use space rgb")
        return self

    @model_validator(mode="after")
    def _encoder_possible(self) -> ExtractSettings:
        if self.encoder == "fused" and self.store == "video":
            raise ValueError("--store video stores no JPEG files: leave --encoder out")
        if self.encoder == "fused" and self.space == "rgb":
            raise ValueError("--encoder fused takes planes, not RGB frames: leave it out, or --space rgb")
        return self

    @property
    def coding(self) -> GradientCoding:
        """How TG is to be understood by whoever reads the data set."""
        if self.store == "video":
            return GradientCoding(source="video", space="rgb", stored=False)
        if self.gradient == "derived":
            return GradientCoding(source="jpeg", space="rgb", stored=False)
        return GradientCoding(source=self.gradient_source, space=self.space)


class WorkerSettings(BaseModel):
    """How the work is done on this machine; never changes a byte of the output."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threads: int = Field(0, ge=0, description="worker processes, one decoder thread each (0: one per core)")
    timeout_seconds: float = Field(
        120.0, gt=0, description="give up on a video whose decoder shows no frame for so long"
    )
    max_video_seconds: float = Field(
        21600.0,
        ge=0,
        description="give up on a video that takes longer than this in all, such as one whose decoder never ends (0: no limit)",
    )
    max_memory_mb: int = Field(4096, ge=512, description="give up on a video that takes a worker over this many MB")
    max_failures: int = Field(-1, ge=-1, description="stop once more videos than this have failed (-1: never)")
    engine: Literal["local", "dask"] = Field("local", description="where shards are made: here, or on a Dask cluster")
    scheduler: str = Field("", description="address of the Dask scheduler, such as tcp://host:8786")
    scratch: str = Field(
        "",
        description="local folder for unfinished work (empty: OUT/.tgprep, or the temporary folder where OUT is a URL)",
    )

    @model_validator(mode="after")
    def _scheduler_given(self) -> WorkerSettings:
        if (self.engine == "dask") != bool(self.scheduler):
            raise ValueError("--engine dask and --scheduler ADDRESS go together")
        return self
