//! End-to-end jobs, through the public interface alone.

mod anomaly;
mod backends;
mod graph;
mod language;
mod pruning;
mod published;
mod video;
mod vision;
