"""The models that the methods explain or use: built, trained and loaded through their libraries' own calls."""
