//! Links on the tcx hooks, pinned, so that they live without us.

use std::io;

use aya::programs::links::{FdLink, LinkError, LinkOrder, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions};
use aya::programs::{ProgramError, SchedClassifier};

use super::{AttachError, Place};
use crate::maps::policy::remove_pin;

/// Attaches, or swaps the program in the link that an earlier process pinned.
pub(super) fn attach(classifier: &mut SchedClassifier, place: &Place<'_>) -> Result<(), AttachError> {
    if place.pin.exists() {
        if take_over(classifier, place)? {
            return Ok(());
        }
        remove_pin(&place.pin).map_err(place.pin_failed("remove"))?;
    }
    let id = classifier
        .attach_with_options(place.ifname, place.hook.into(), TcAttachOptions::TcxOrder(LinkOrder::first()))
        .map_err(place.failed("attach"))?;
    let link = take_link(classifier, id).map_err(place.failed("attach"))?;
    link.pin(&place.pin).map_err(|error| place.pin_failed("make")(io::Error::other(error)))?;
    Ok(())
}

/// Removes the pin; the link, when nobody else holds it, goes with it.
pub(super) fn detach(place: &Place<'_>) -> Result<(), AttachError> {
    remove_pin(&place.pin).map_err(place.pin_failed("remove"))
}

/// Puts the program into the pinned link. Gives false when that link serves no interface, or another one.
fn take_over(classifier: &mut SchedClassifier, place: &Place<'_>) -> Result<bool, AttachError> {
    let pinned = match PinnedLink::from_pin(&place.pin) {
        Ok(pinned) => pinned,
        Err(LinkError::SyscallError(error)) => return Err(place.pin_failed("open")(error.io_error)),
        Err(error) => return Err(place.pin_failed("open")(io::Error::other(error))),
    };
    let Ok(link) = SchedClassifierLink::try_from(FdLink::from(pinned)) else {
        tracing::warn!(pin = %place.pin.display(), "pinned link is of another kind and is replaced");
        return Ok(false);
    };
    let id = match classifier.attach_to_link(link) {
        Ok(id) => id,
        Err(error) if is_defunct(&error) => return Ok(false),
        Err(error) => return Err(place.failed("take over the link of")(error)),
    };
    // Our handle closes here; the pin keeps the link.
    take_link(classifier, id).map_err(place.failed("take over the link of"))?;
    is_attached(classifier, place)
}

/// Whether the program now runs at the place: an index can have passed to another interface.
fn is_attached(classifier: &SchedClassifier, place: &Place<'_>) -> Result<bool, AttachError> {
    let ours = classifier.info().map_err(place.failed("look at"))?.id();
    let (_, programs) =
        SchedClassifier::query_tcx(place.ifname, place.hook.into()).map_err(place.failed("look for"))?;
    Ok(programs.iter().any(|program| program.id() == ours))
}

fn take_link(classifier: &mut SchedClassifier, id: SchedClassifierLinkId) -> Result<FdLink, ProgramError> {
    let link = classifier.take_link(id)?;
    FdLink::try_from(link).map_err(|error| ProgramError::IOError(io::Error::other(error)))
}

/// A link whose interface is gone.
fn is_defunct(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::ENOLINK))
}
