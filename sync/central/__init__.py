"""The office: ingest, schema, pages. Imports nothing by itself."""
