"""CashCode NET (CCNET) bill validators; see README.md in this folder."""
