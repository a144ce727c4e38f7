"""`tgtrain doctor`: whether this machine can train, and what to do if not."""

from cli.doctor import doctor_command

doctor = doctor_command(
    "tgtrain.doctor",
    "train",
    "Try what training needs on this machine: packages, devices, processes, JPEG, shared memory, limits, the disk of FOLDER.",
)
