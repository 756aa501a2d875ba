//! The data of a plan's cells: what is missing, and its download.

use std::collections::BTreeMap;
use std::path::PathBuf;

use laq_datasets::{DownloadOptions, FileState, Progress, download, find};
use laq_runner::config::FILE;

use crate::LabError;
use crate::plan::{Plan, State};

/// A data set of the catalogue, and the folder in which its files belong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Needed {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
}

/// The data sets of the cells that are not finished, each once. A text file of the user's is left
/// to the run.
pub(crate) fn needed(plan: &Plan) -> Vec<Needed> {
    let mut needed = Vec::new();
    for cell in &plan.cells {
        let data = &cell.experiment.data;
        let entry = Needed {
            name: data.name.clone(),
            folder: data.dir.clone(),
        };
        if data.name != FILE
            && !needed.contains(&entry)
            && !matches!(cell.state(), State::Finished(_))
        {
            needed.push(entry);
        }
    }
    needed
}

/// The state of the first file that is not as it should be, such as "missing"; none if all are.
pub(crate) fn defect(needed: &Needed) -> Result<Option<String>, LabError> {
    let dataset = find(&needed.name)?;
    for file in dataset.files {
        match file.inspect(&dataset.path(file, &needed.folder)) {
            Ok(FileState::Valid) => {}
            Ok(state) => return Ok(Some(state.to_string())),
            Err(error) => return Ok(Some(format!("unreadable: {error}"))),
        }
    }
    Ok(None)
}

/// Downloads what is missing. Returns the data sets that cannot be downloaded, with the reason.
pub(crate) fn fetch(
    plan: &Plan,
    mirror: Option<&str>,
    is_over: &dyn Fn() -> bool,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<BTreeMap<String, String>, LabError> {
    let options = DownloadOptions {
        mirror: mirror.map(Into::into),
        ..Default::default()
    };
    let mut failed = BTreeMap::new();
    for needed in needed(plan) {
        if is_over() || defect(&needed)?.is_none() {
            continue;
        }
        let name = &needed.name;
        if let Err(error) = download(find(name)?, &needed.folder, &options, progress) {
            failed.insert(name.clone(), error.to_string());
        }
    }
    Ok(failed)
}
