"""`tgprep doctor`: whether this machine can extract, and what to do if not."""

from cli.doctor import doctor_command

doctor = doctor_command(
    "tgprep.doctor",
    "extract",
    "Try what extraction needs on this machine: packages, decoders on a clip, JPEG, programs, limits, the disk of FOLDER.",
)
