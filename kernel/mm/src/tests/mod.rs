//! Tests against a platform made of a table.
