"""The kiosk's SQLite file: append-only journal with its hash chain, ledger, projections, cursors, migrations."""
