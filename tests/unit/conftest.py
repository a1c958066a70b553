"""That this file is here puts its folder on the path, so that tests in the folders below can import `fake_bus`."""
