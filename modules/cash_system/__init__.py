"""Taking cash: payments, notes, claims, doubts. See README.md beside this file."""
