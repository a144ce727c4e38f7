raise ImportError("hidden from the processes that the tests start, see tests/conftest.py")
