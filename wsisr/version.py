"""The version of wsisr, which every output records."""

VERSION = "0.1.0"
