//! Bounds of what others put into details.

use specola_proto::flow::{Http, HttpHeader, layer7::Record};

use super::FlowDetail;

/// What one entry of a list takes beyond its text, bytes.
const ENTRY: usize = 48;

/// What [`FlowDetail::clip`] left.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Clipped {
    /// Bytes of all texts and lists.
    pub weight: usize,
    /// Whether something was cut off.
    pub is_cut: bool,
}

impl FlowDetail {
    /// Cuts texts and lists so that all of them together take at most so many bytes. What identifies a flow is kept
    /// before headers, answers and names.
    pub fn clip(&mut self, bytes: usize) -> Clipped {
        let mut room = Room { bytes, is_cut: false };
        room.text(&mut self.trace_id);
        room.text(&mut self.source_ip_xlated);
        for service in [&mut self.source_service, &mut self.destination_service].into_iter().flatten() {
            room.text(&mut service.name);
            room.text(&mut service.namespace);
        }
        match self.l7.as_mut().and_then(|l7| l7.record.as_mut()) {
            Some(Record::Http(http)) => room.http(http),
            Some(Record::Dns(dns)) => {
                room.text(&mut dns.query);
                room.text(&mut dns.observation_source);
                for list in [&mut dns.qtypes, &mut dns.rrtypes, &mut dns.ips, &mut dns.cnames] {
                    room.list(list);
                }
            }
            Some(Record::Kafka(kafka)) => {
                room.text(&mut kafka.api_key);
                room.text(&mut kafka.topic);
            }
            None => {}
        }
        room.list(&mut self.source_names);
        room.list(&mut self.destination_names);
        Clipped { weight: bytes - room.bytes, is_cut: room.is_cut }
    }
}

/// What there is still room for.
struct Room {
    bytes: usize,
    is_cut: bool,
}

impl Room {
    fn text(&mut self, text: &mut String) {
        if text.len() > self.bytes {
            text.truncate(text.floor_char_boundary(self.bytes));
            self.is_cut = true;
        }
        // What was cut off, or reserved and never used, is given back.
        text.shrink_to_fit();
        self.bytes -= text.len();
    }

    /// Whether there is room for one more entry.
    fn entry(&mut self) -> bool {
        match self.bytes.checked_sub(ENTRY) {
            Some(rest) => self.bytes = rest,
            None => self.is_cut = true,
        }
        !self.is_cut
    }

    fn list(&mut self, texts: &mut Vec<String>) {
        let kept = texts.iter_mut().map(|text| self.entry_of(text)).take_while(|has_room| *has_room).count();
        texts.truncate(kept);
        texts.shrink_to_fit();
    }

    fn entry_of(&mut self, text: &mut String) -> bool {
        let has_room = self.entry();
        if has_room {
            self.text(text);
        }
        has_room
    }

    fn http(&mut self, http: &mut Http) {
        for text in [&mut http.method, &mut http.protocol, &mut http.url] {
            self.text(text);
        }
        let kept = http
            .headers
            .iter_mut()
            .map(|header| self.header(header))
            .take_while(|has_room| *has_room)
            .count();
        http.headers.truncate(kept);
        http.headers.shrink_to_fit();
    }

    fn header(&mut self, header: &mut HttpHeader) -> bool {
        let has_room = self.entry_of(&mut header.key);
        if has_room {
            self.text(&mut header.value);
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use specola_proto::flow::{Dns, Layer7};

    use super::*;

    fn http(url: &str, headers: usize) -> FlowDetail {
        let header = HttpHeader { key: "name".into(), value: "value".into() };
        let http = Http { url: url.into(), headers: vec![header; headers], ..Http::default() };
        let l7 = Layer7 { record: Some(Record::Http(http)), ..Layer7::default() };
        FlowDetail { l7: Some(l7), trace_id: "t".into(), ..FlowDetail::default() }
    }

    #[test]
    fn what_fits_stays() {
        let mut detail = http("/a", 2);
        let whole = detail.clone();
        let weight = 1 + 2 + 2 * (ENTRY + 9);
        assert_eq!(detail.clip(weight), Clipped { weight, is_cut: false });
        assert_eq!(detail, whole);
        assert_eq!(detail.clip(weight - 1), Clipped { weight: weight - 1, is_cut: true });
    }

    #[test]
    fn the_weight_is_bounded_whatever_comes() {
        let names = vec!["x".repeat(300); 100];
        let dns =
            Dns { query: "ä".repeat(5_000), ips: names.clone(), cnames: names.clone(), ..Dns::default() };
        let l7 = Layer7 { record: Some(Record::Dns(dns)), ..Layer7::default() };
        let dns = FlowDetail { l7: Some(l7), source_names: names, ..FlowDetail::default() };
        for whole in [dns, http(&"ä".repeat(5_000), 1_000), http("", 100_000)] {
            for bytes in [0, 1, 50, 999, 10_001, 40_000] {
                let mut detail = whole.clone();
                let clipped = detail.clip(bytes);
                assert!(clipped.weight <= bytes && clipped.is_cut, "{bytes}: {clipped:?}");
                // The weight is that of what is left.
                assert_eq!(detail.clip(usize::MAX).weight, clipped.weight);
            }
        }
    }

    #[test]
    fn many_empty_entries_weigh_too() {
        let mut detail = FlowDetail { source_names: vec![String::new(); 1_000_000], ..FlowDetail::default() };
        detail.clip(4_800);
        assert_eq!(detail.source_names.len(), 100);
    }
}
