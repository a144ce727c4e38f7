"""Worker processes that decode and pack, and the processes that watch them."""
