"""Money, events, payments, ledger rules, chain hash and errors. Pure: standard library only, no I/O, no clock."""
