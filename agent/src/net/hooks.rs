//! Interfaces of a network namespace and the filters of their clsact queueing disciplines.

use std::path::Path;

use futures::TryStreamExt;
use rtnetlink::Handle;
use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcMessage, TcOption};
use specola_datapath::probe::is_own_name;
use specola_datapath::{FILTER_PLACE, Hook};

use super::netns::in_netns;
use super::{Net, NetError, link};

/// Interfaces and filters of one namespace.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Hooks {
    /// Index and name of every interface.
    pub(crate) devices: Vec<(u32, String)>,
    /// Filters at the clsact hooks of all of them.
    pub(crate) filters: Vec<Filter>,
}

/// One filter at a clsact hook.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Filter {
    pub(crate) ifindex: u32,
    pub(crate) hook: Hook,
    pub(crate) priority: u16,
    pub(crate) handle: u32,
    /// Kind of filter: `bpf`, `flower` and so on.
    pub(crate) kind: String,
    /// Name of its program, if it has one.
    pub(crate) program: Option<String>,
    /// The kernel's number of its program.
    pub(crate) program_id: Option<u32>,
}

impl Filter {
    /// Whether an agent made it.
    pub(crate) fn is_own(&self) -> bool {
        (self.priority, self.handle) == FILTER_PLACE && self.program.as_deref().is_some_and(is_own_name)
    }
}

impl Hooks {
    pub(crate) fn name_of(&self, ifindex: u32) -> Option<String> {
        self.devices.iter().find(|(index, _)| *index == ifindex).map(|(_, name)| name.clone())
    }
}

/// Interfaces of a namespace; `None` = that of this thread. Blocks.
pub(crate) fn devices_in(netns: Option<&Path>) -> Result<Vec<(u32, String)>, NetError> {
    in_netns(netns.unwrap_or(Path::new(OWN)), |handle| async move { link::names(&handle).await })
}

/// Interfaces and filters of a namespace; `None` = that of this thread. Blocks.
pub(crate) fn hooks_in(netns: Option<&Path>) -> Result<Hooks, NetError> {
    in_netns(netns.unwrap_or(Path::new(OWN)), |handle| async move {
        let devices = link::names(&handle).await?;
        let mut filters = Vec::new();
        for (ifindex, name) in &devices {
            for hook in [Hook::Ingress, Hook::Egress] {
                filters.extend(filters_at(&handle, *ifindex, name, hook).await?);
            }
        }
        Ok(Hooks { devices, filters })
    })
}

/// Runs `work` with a netlink handle of a namespace; `None` = that of this thread. Blocks.
pub(crate) fn in_netns_blocking<T, F, W>(netns: Option<&Path>, work: W) -> Result<T, NetError>
where
    T: Send,
    F: Future<Output = Result<T, NetError>>,
    W: FnOnce(Net) -> F + Send,
{
    in_netns(netns.unwrap_or(Path::new(OWN)), |handle| work(Net { handle }))
}

async fn filters_at(handle: &Handle, ifindex: u32, name: &str, hook: Hook) -> Result<Vec<Filter>, NetError> {
    let what = format!("list the filters of device {name}");
    let Ok(index) = i32::try_from(ifindex) else { return Ok(Vec::new()) };
    let request = handle.traffic_filter(index).get();
    let request = match hook {
        Hook::Ingress => request.ingress(),
        Hook::Egress => request.egress(),
    };
    let messages: Vec<TcMessage> = match request.execute().try_collect().await {
        Ok(messages) => messages,
        // The device has no such queueing discipline, or is gone.
        Err(rtnetlink::Error::NetlinkError(error)) if NOTHING_THERE.contains(&-error.raw_code()) => {
            Vec::new()
        }
        Err(error) => return Err(NetError::netlink(what)(error)),
    };
    Ok(messages.iter().filter_map(|message| filter_of(ifindex, hook, message)).collect())
}

/// What a message says; `None` for the heads of priorities, which have no handle.
fn filter_of(ifindex: u32, hook: Hook, message: &TcMessage) -> Option<Filter> {
    let handle = message.header.handle;
    let number = (u32::from(handle.major) << 16) | u32::from(handle.minor);
    if number == 0 {
        return None;
    }
    let priority = u16::try_from(message.header.info >> 16).unwrap_or_default();
    let mut filter = Filter {
        ifindex,
        hook,
        priority,
        handle: number,
        kind: String::new(),
        program: None,
        program_id: None,
    };
    for attribute in &message.attributes {
        match attribute {
            TcAttribute::Kind(kind) => filter.kind.clone_from(kind),
            TcAttribute::Options(options) => {
                for option in options {
                    match option {
                        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => {
                            filter.program = Some(name.clone())
                        }
                        TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => filter.program_id = Some(*id),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(filter)
}

/// The namespace of this thread; a new thread begins in that of its maker.
const OWN: &str = "/proc/thread-self/ns/net";
/// ENOENT, EINVAL, ENODEV, EOPNOTSUPP.
const NOTHING_THERE: [i32; 4] = [
    nix::errno::Errno::ENOENT as i32,
    nix::errno::Errno::EINVAL as i32,
    nix::errno::Errno::ENODEV as i32,
    nix::errno::Errno::EOPNOTSUPP as i32,
];
