//! End-to-end jobs.
