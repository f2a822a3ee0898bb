//! Filters of the clsact queueing discipline, for kernels without tcx.
//!
//! Each of our filters has a fixed priority and handle, so that a later process finds and replaces it.

use aya::programs::links::Link as _;
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
};
use aya::programs::{ProgramError, SchedClassifier};

use super::{AttachError, Place};

/// Adds the filter, or swaps the program of the one that is there.
pub(super) fn attach(classifier: &mut SchedClassifier, place: &Place<'_>) -> Result<(), AttachError> {
    add_qdisc(place)?;
    let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
    let added =
        classifier.attach_with_options(place.ifname, place.hook.into(), TcAttachOptions::Netlink(options));
    let id = match added {
        Err(error) if os_error(&error) == Some(libc::EEXIST) => {
            let there = existing(place)?;
            classifier.attach_to_link(there)
        }
        result => result,
    }
    .map_err(place.failed("attach"))?;
    let link = classifier.take_link(id).map_err(place.failed("attach"))?;
    // Dropping the link would remove the filter, which must outlive this process.
    std::mem::forget(link);
    Ok(())
}

/// Removes the filter, if it is there. The queueing discipline stays: others may use it.
pub(super) fn detach(place: &Place<'_>) -> Result<(), AttachError> {
    match existing(place)?.detach() {
        Ok(()) => Ok(()),
        // No queueing discipline, no filter, or no interface any more.
        Err(error)
            if matches!(
                os_error(&error),
                Some(libc::ENOENT | libc::EINVAL | libc::ENODEV | libc::EOPNOTSUPP)
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(place.failed("detach")(error)),
    }
}

fn add_qdisc(place: &Place<'_>) -> Result<(), AttachError> {
    match qdisc_add_clsact(place.ifname).map_err(ProgramError::from) {
        Err(error) if os_error(&error) != Some(libc::EEXIST) => {
            Err(place.failed("add the clsact queueing discipline for")(error))
        }
        _ => Ok(()),
    }
}

/// Our filter at a place, whether or not it exists.
fn existing(place: &Place<'_>) -> Result<SchedClassifierLink, AttachError> {
    SchedClassifierLink::attached(place.ifname, place.hook.into(), PRIORITY, HANDLE, None)
        .map_err(|error| place.failed("find")(ProgramError::IOError(error)))
}

fn os_error(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::NetlinkError(error) | ProgramError::TcError(TcError::NetlinkError(error)) => {
            error.raw_os_error()
        }
        ProgramError::TcError(TcError::IoError(error)) | ProgramError::IOError(error) => error.raw_os_error(),
        _ => None,
    }
}

/// Before everything else at the hook.
pub(super) const PRIORITY: u16 = 1;
/// Not the first handle, which filters without a wish get.
const HANDLE: TcHandle = TcHandle::new(0, MINOR);
pub(super) const MINOR: u16 = 0x5350;
