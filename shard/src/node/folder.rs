//! What is refused about a data folder before anything is written into it or served from it: a
//! folder that holds something else, and a folder of another cluster than the one named.

use std::fs;
use std::path::Path;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use quorate_proto::pb::{node_request, node_response};
use quorate_proto::{NodeService, pb};

use super::OpenError;

/// The rows.
pub(super) const ROWS: &str = "rows";
/// The Raft log.
pub(super) const RAFT: &str = "raft";
/// Where snapshots are put together.
pub(super) const SNAPSHOTS: &str = "snapshots";
/// What may lie in a folder in which no node has begun yet: what a node makes there itself, a
/// demo's ballast, and what file systems put at their root.
const NOT_FOREIGN: [&str; 5] = [ROWS, RAFT, SNAPSHOTS, "ballast", "lost+found"];

/// How long the seeds may take to say which cluster they are of.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);

/// Makes the folder if it is not there; refuses one that holds something else. A folder in which a
/// node has begun may hold other files too: somebody has put them beside it.
///
/// # Errors
/// [`OpenError::ForeignFiles`], [`OpenError::System`].
pub(super) fn check_files(dir: &Path) -> Result<(), OpenError> {
    let system = |e: std::io::Error| OpenError::System(format!("{}: {e}", dir.display()));
    fs::create_dir_all(dir).map_err(system)?;
    if dir.join(ROWS).is_dir() && dir.join(RAFT).is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(dir).map_err(system)? {
        let name = entry.map_err(system)?.file_name();
        if !NOT_FOREIGN.iter().any(|own| name == *own) {
            let name = name.to_string_lossy().into_owned();
            return Err(OpenError::ForeignFiles { dir: dir.to_owned(), name });
        }
    }
    Ok(())
}

/// Asks the seeds which cluster they are of; the first answer counts. Seeds that are silent prove
/// nothing: after a power cut all nodes start at once. Calls of other clusters are refused later
/// too.
///
/// # Errors
/// [`OpenError::OtherCluster`]
pub(super) async fn check_cluster(
    name: &str,
    own: &[u8],
    seeds: impl IntoIterator<Item = std::sync::Arc<dyn NodeService>>,
) -> Result<(), OpenError> {
    let asked: FuturesUnordered<_> =
        seeds.into_iter().map(|seed| async move { cluster_of(&*seed).await }).collect();
    let mut answers = asked.filter_map(std::future::ready);
    match tokio::time::timeout(ASK_TIMEOUT, answers.next()).await {
        Ok(Some(others)) if others[..] != *own => Err(OpenError::OtherCluster {
            dir: name.to_owned(),
            folder: hex(own),
            others: hex(&others),
        }),
        _ => Ok(()),
    }
}

async fn cluster_of(seed: &dyn NodeService) -> Option<bytes::Bytes> {
    let request = pb::StatusRequest { ranges: false };
    // Without a cluster's id and without a clock: neither is known to be of the same cluster.
    let call = pb::Call {
        timeout_ms: u32::try_from(ASK_TIMEOUT.as_millis()).unwrap_or(u32::MAX),
        node: Some(pb::NodeRequest { body: Some(node_request::Body::Status(request)) }),
        ..pb::Call::default()
    };
    match seed.call(call).await.ok()?.node?.body {
        Some(node_response::Body::Status(status)) => Some(status.cluster_id),
        _ => None,
    }
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_something_else_is_refused_by_name_and_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("new/deep");
        check_files(&dir).unwrap();
        // An open that a crash interrupted.
        fs::create_dir(dir.join(ROWS)).unwrap();
        fs::create_dir(dir.join("lost+found")).unwrap();
        check_files(&dir).unwrap();
        fs::write(dir.join("letter.txt"), "dear").unwrap();
        let error = check_files(&dir).unwrap_err();
        assert!(matches!(&error, OpenError::ForeignFiles { name, .. } if name == "letter.txt"));
        assert!(error.to_string().contains(&dir.display().to_string()), "{error}");
        // Beside a node it lies in nobody's way.
        fs::create_dir(dir.join(RAFT)).unwrap();
        check_files(&dir).unwrap();
        let file = dir.join("letter.txt");
        assert!(check_files(&file).unwrap_err().to_string().contains("letter.txt"));
    }
}
