"""The database: engine, tables, and one store a port."""
