//! What papers report, as records.

use super::Record;

/// Published results of ResNet-50 on `ImageNet` and the retraining that papers report (the paper's tables 1 and 3): what
/// they do not report is unknown here, too. Where they tell when the rate falls, it falls to a tenth.
///
/// # Panics
///
/// Never: the records are part of the crate, and tested.
pub fn retraining_details() -> Vec<Record> {
    serde_json::from_str(include_str!("published.json")).expect("the crate's records are records")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comparison::{Flag, Setup, Table};

    #[test]
    fn published_results_cannot_be_compared_as_they_stand() {
        let records = retraining_details();
        let table = Table::new(&records, &Setup::default(), Some("L1, retrained well")).unwrap();
        let row = |name: &str| table.rows.iter().find(|row| row.name == name).unwrap();
        // The same epochs and rates: of the other settings nothing is told.
        assert!(!row("GReg-1").flags.contains(&Flag::FtLrDiffers));
        assert!(row("DCP").flags.contains(&Flag::FtEpochsDiffer));
        assert!(row("ResRep").flags.contains(&Flag::FtLrDiffers));
        assert!(table.rows.iter().all(|row| row.name == table.reference || !row.is_fair));
    }
}
