"""`python -m jinit`."""

from jinit.report.cli import main

raise SystemExit(main())
