"""The card of a data set: README.md for people and the Hugging Face hub, croissant.json for programs."""
