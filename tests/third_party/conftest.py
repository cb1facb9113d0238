"""These are other people's repositories: their tests run where they are installed (test_third_party.py)."""

collect_ignore_glob = ["*"]
