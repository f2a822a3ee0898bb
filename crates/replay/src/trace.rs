//! Counting allowed packets and reporting them, one record for many.

use specola_datapath_common::{
    conntrack::state,
    event::{ct_state, flags, kind, lane},
};

use crate::{
    conntrack::{Entry, Progress, Track},
    hooks::Run,
};

impl Run<'_> {
    /// Enters an allowed packet into its connection, and reports it at this point if a report is due.
    pub(crate) fn commit(&mut self, track: &Track, point: u8) {
        let known = track.entry.filter(|_| !track.is_new());
        let progress = match (track.is_new(), known) {
            (true, _) => {
                if let Some(entry) = track.entry {
                    self.close_previous(entry, point);
                }
                self.datapath.connections.create(&mut self.work)
            }
            (false, None) => Progress { report: true, closed: false },
            (false, Some(entry)) => {
                let interval_ns = u64::from(self.datapath.config.trace_interval_ms) * 1_000_000;
                self.datapath.connections.advance(&self.work, entry, track.dir, interval_ns)
            }
        };
        if !progress.report {
            return;
        }
        let mut bits = if track.is_new() { flags::COUNTERS } else { 0 };
        if let Some(entry) = known {
            self.datapath.connections.report(&mut self.work, entry, track.dir);
            bits = flags::COUNTERS;
        }
        if progress.closed {
            bits |= flags::CLOSE;
        }
        self.trace_record(point, bits);
    }

    /// Sends the draft: one record more of its lane.
    pub(crate) fn emit(&mut self) {
        let event = &mut self.work.event;
        let seq = &mut self.datapath.lane_seq[usize::from(event.lane)];
        *seq = seq.wrapping_add(1);
        event.lane_seq = *seq;
        if event.flags & flags::COUNTERS == 0 {
            (event.packets_fwd, event.packets_rev) = (0, 0);
            (event.bytes_fwd, event.bytes_rev) = (0, 0);
            event.created_ns = 0;
        }
        self.out.push(*event);
        // Records of one packet have an order.
        event.boot_ns = event.boot_ns.saturating_add(1);
    }

    /// Reports the end of a connection whose tuple another one takes over before anybody saw it end.
    fn close_previous(&mut self, entry: Entry, point: u8) {
        let value = self.datapath.connections.at_mut(entry);
        if value.state == state::CLOSED {
            return;
        }
        value.state = state::CLOSED;
        let from_initiator = self.work.src_is_lo == (value.initiator == 0);
        let event = &mut self.work.event;
        let (tcp_flags, bits, state) = (event.tcp_flags, event.flags, event.ct_state);
        event.tcp_flags = 0;
        event.ct_state = if from_initiator { ct_state::ESTABLISHED } else { ct_state::REPLY };
        if !from_initiator {
            event.flags |= flags::REPLY;
        }
        self.datapath.connections.report(&mut self.work, entry, u8::from(!from_initiator));
        self.trace_record(point, flags::COUNTERS | flags::CLOSE);
        let event = &mut self.work.event;
        (event.tcp_flags, event.flags, event.ct_state) = (tcp_flags, bits, state);
    }

    fn trace_record(&mut self, point: u8, bits: u8) {
        self.identify();
        let event = &mut self.work.event;
        event.kind = kind::TRACE;
        event.lane = lane::TRACE;
        event.obs_point = point;
        event.verdict = 0;
        event.match_type = 0;
        event.cookie = 0;
        event.flags = event.flags & !(flags::AUDIT | flags::CLOSE | flags::COUNTERS) | bits;
        self.emit();
    }
}
