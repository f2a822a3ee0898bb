//! Records of a capture, one after the other.

use std::io::{self, Read};

use flate2::read::MultiGzDecoder;
use pcap_parser::nom::{Err as NomErr, IResult, Needed};
use pcap_parser::traits::PcapNGPacketBlock as _;
use pcap_parser::{
    Block, LegacyPcapBlock, PcapError, PcapHeader, parse_block_be, parse_block_le, parse_pcap_frame,
    parse_pcap_frame_be, parse_pcap_frame_modified, parse_pcap_header,
};

use crate::{Damage, LinkType, Packet, buffer::Buffer};

/// A capture that is read packet by packet.
#[derive(Debug)]
pub struct Capture {
    buffer: Buffer<Box<dyn Read + Send>>,
    form: Form,
    number: u64,
}

/// A packet of a capture.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Number in the file, from 1.
    pub number: u64,
    /// Where the record begins in the file (after decompression), bytes.
    pub offset: u64,
    /// Interface: place of its description in the file, from 0.
    pub interface: u32,
    /// When it was captured, ns since 1970.
    pub time_ns: u64,
    /// The packet, or why there is none.
    pub packet: Result<Packet<'a>, Damage>,
}

/// Why a capture cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The source failed.
    #[error("after packet {after}, at byte {offset}: cannot read: {source}")]
    Read {
        /// Number of the last packet.
        after: u64,
        /// Where in the file.
        offset: u64,
        /// Cause.
        source: io::Error,
    },
    /// Neither pcap nor pcapng.
    #[error(
        "it is neither a pcap nor a pcapng file, plain or gzip; convert it with: editcap -F pcapng FILE NEW"
    )]
    Unknown,
    /// The file ends within a record.
    #[error(
        "after packet {after}, at byte {offset}: the file ends within a record; it was cut off, or is still being written"
    )]
    Truncated {
        /// Number of the last packet.
        after: u64,
        /// Where the record begins.
        offset: u64,
    },
    /// A record longer than any packet is.
    #[error(
        "after packet {after}, at byte {offset}: a record of more than {MAX_RECORD} bytes; the file is damaged there"
    )]
    TooLong {
        /// Number of the last packet.
        after: u64,
        /// Where the record begins.
        offset: u64,
    },
    /// Bytes that are no record.
    #[error("after packet {after}, at byte {offset}: the bytes are no record; the file is damaged there")]
    NoRecord {
        /// Number of the last packet.
        after: u64,
        /// Where the record should begin.
        offset: u64,
    },
}

/// Longest record that is read, bytes.
const MAX_RECORD: usize = 16 << 20;
/// Interfaces that a section may describe.
const MAX_INTERFACES: usize = 4_096;

#[derive(Debug)]
enum Form {
    Pcap { parse: ParseFrame, link: LinkType, fraction_ns: u64 },
    PcapNg { big_endian: bool, interfaces: Vec<Interface>, before: u32 },
}

type ParseFrame = fn(&[u8]) -> IResult<&[u8], LegacyPcapBlock<'_>, PcapError<&[u8]>>;

#[derive(Clone, Debug)]
struct Interface {
    name: String,
    link: LinkType,
    snap_length: u32,
    /// Units of stamps in a second.
    resolution: u64,
    offset_seconds: i64,
}

/// What a step through a pcapng file found, without borrowing the buffer.
enum Found {
    Record { consumed: usize, head: Head },
    Other { consumed: usize },
}

/// Everything of a record but its bytes, which are at a place of the buffer.
#[derive(Clone, Copy)]
struct Head {
    interface: u32,
    time_ns: u64,
    data: (usize, usize),
    length: u32,
    link: Result<LinkType, Damage>,
}

/// What a parser of one record says, once its lifetime is gone.
enum Step<T> {
    Done(T),
    More,
    Bad,
}

impl Capture {
    /// Reads the header. `source` may be gzip.
    ///
    /// # Errors
    /// It is no capture, or cannot be read.
    pub fn open(mut source: impl Read + Send + 'static) -> Result<Self, CaptureError> {
        let failed = |source| CaptureError::Read { after: 0, offset: 0, source };
        let mut magic = Vec::with_capacity(2);
        source.by_ref().take(2).read_to_end(&mut magic).map_err(failed)?;
        let is_gzip = magic == [0x1f, 0x8b];
        let whole = io::Cursor::new(magic).chain(source);
        let plain: Box<dyn Read + Send> =
            if is_gzip { Box::new(MultiGzDecoder::new(whole)) } else { Box::new(whole) };
        let mut buffer = Buffer::new(plain);
        while buffer.data().len() < 24 && buffer.fill().map_err(failed)? {}
        if buffer.data().starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]) {
            let form = Form::PcapNg { big_endian: false, interfaces: Vec::new(), before: 0 };
            return Ok(Self { buffer, form, number: 0 });
        }
        let header = match parse_pcap_header(buffer.data()) {
            Ok((_, header)) => header,
            Err(_) => return Err(CaptureError::Unknown),
        };
        buffer.consume(header.size());
        Ok(Self { buffer, form: classic(&header), number: 0 })
    }

    /// Name of an interface; empty when the file does not say it.
    pub fn interface_name(&self, interface: u32) -> &str {
        match &self.form {
            Form::Pcap { .. } => "",
            Form::PcapNg { interfaces, before, .. } => interface
                .checked_sub(*before)
                .and_then(|at| interfaces.get(at as usize))
                .map_or("", |interface| &interface.name),
        }
    }

    /// Packets that were read.
    pub const fn packets(&self) -> u64 {
        self.number
    }

    /// Whether the next packet is not in memory yet, so that [`Self::next_record`] would read from the source.
    pub fn would_wait(&mut self) -> bool {
        match &mut self.form {
            Form::Pcap { parse, link, fraction_ns } => {
                matches!(classic_step(*parse, *link, *fraction_ns, self.buffer.data()), Step::More)
            }
            Form::PcapNg { big_endian, .. } => {
                let data = self.buffer.data();
                let parsed = if *big_endian { parse_block_be(data) } else { parse_block_le(data) };
                matches!(parsed, Err(NomErr::Incomplete(_)))
            }
        }
    }

    /// The next packet; none at the end of the file. Blocks while the source does.
    ///
    /// # Errors
    /// The file is damaged so that nothing after it can be read, or the source fails. Every further call fails as well.
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>, CaptureError> {
        loop {
            let step = match &mut self.form {
                Form::Pcap { parse, link, fraction_ns } => {
                    classic_step(*parse, *link, *fraction_ns, self.buffer.data())
                }
                Form::PcapNg { big_endian, interfaces, before } => {
                    let data = self.buffer.data();
                    next_generation_step(big_endian, interfaces, before, data)
                }
            };
            let (after, offset) = (self.number, self.buffer.offset());
            match step {
                Step::Done(Found::Other { consumed }) => self.buffer.consume(consumed),
                Step::Done(Found::Record { consumed, head }) => {
                    self.number += 1;
                    return Ok(Some(self.record(offset, consumed, head)));
                }
                Step::Bad => return Err(CaptureError::NoRecord { after, offset }),
                Step::More if self.buffer.data().len() > MAX_RECORD => {
                    return Err(CaptureError::TooLong { after, offset });
                }
                Step::More => {
                    let read = self.buffer.fill();
                    if read.map_err(|source| CaptureError::Read { after, offset, source })? {
                        continue;
                    }
                    let ended = self.buffer.data().is_empty();
                    return if ended { Ok(None) } else { Err(CaptureError::Truncated { after, offset }) };
                }
            }
        }
    }

    fn record(&mut self, offset: u64, consumed: usize, head: Head) -> Record<'_> {
        // The bytes stay where they are until the buffer is filled again.
        let (start, end) = head.data;
        let packet_at = self.buffer.hold(consumed, start, end);
        let data = self.buffer.held(packet_at);
        let packet = head.link.and_then(|link| {
            if data.is_empty() { Err(Damage::Record) } else { Packet::of(link, data, head.length) }
        });
        let too_late = head.time_ns == u64::MAX;
        Record {
            number: self.number,
            offset,
            interface: head.interface,
            time_ns: head.time_ns,
            packet: if too_late { Err(Damage::Record) } else { packet },
        }
    }
}

fn classic(header: &PcapHeader) -> Form {
    let parse: ParseFrame = match (header.is_modified_format(), header.is_bigendian()) {
        (true, _) => |data| parse_pcap_frame_modified(data),
        (false, true) => |data| parse_pcap_frame_be(data),
        (false, false) => |data| parse_pcap_frame(data),
    };
    let fraction_ns = if header.is_nanosecond_precision() { 1 } else { 1_000 };
    // The upper bits say how long a frame check sequence is, which no Linux capture has.
    let link = LinkType(u32::from_ne_bytes(header.network.0.to_ne_bytes()) & 0x03ff_ffff);
    Form::Pcap { parse, link, fraction_ns }
}

fn classic_step(parse: ParseFrame, link: LinkType, fraction_ns: u64, data: &[u8]) -> Step<Found> {
    match parse(data) {
        Ok((rest, block)) => {
            let consumed = data.len() - rest.len();
            let time_ns = u64::from(block.ts_sec) * 1_000_000_000 + u64::from(block.ts_usec) * fraction_ns;
            let head = Head {
                interface: 0,
                time_ns,
                data: (consumed - block.data.len(), consumed),
                length: block.origlen,
                link: Ok(link),
            };
            Step::Done(Found::Record { consumed, head })
        }
        Err(error) => unfinished(&error),
    }
}

fn next_generation_step(
    big_endian: &mut bool,
    interfaces: &mut Vec<Interface>,
    before: &mut u32,
    data: &[u8],
) -> Step<Found> {
    let parsed = if *big_endian { parse_block_be(data) } else { parse_block_le(data) };
    let (rest, block) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return unfinished(&error),
    };
    let consumed = data.len() - rest.len();
    let place = |bytes: &[u8]| {
        // A part of the block, which is a part of the buffer.
        let start = bytes.as_ptr().addr() - data.as_ptr().addr();
        (start, start + bytes.len())
    };
    let head = match &block {
        Block::SectionHeader(header) => {
            *big_endian = header.big_endian();
            *before = before.saturating_add(u32::try_from(interfaces.len()).unwrap_or(u32::MAX));
            interfaces.clear();
            return Step::Done(Found::Other { consumed });
        }
        Block::InterfaceDescription(described) => {
            if interfaces.len() >= MAX_INTERFACES {
                return Step::Bad;
            }
            let name = described.if_name().and_then(Result::ok).unwrap_or_default();
            interfaces.push(Interface {
                name: name.trim_end_matches('\0').chars().take(64).collect(),
                link: LinkType(u32::from_ne_bytes(described.linktype.0.to_ne_bytes())),
                snap_length: described.snaplen,
                resolution: described.ts_resolution().unwrap_or(0),
                offset_seconds: described.if_tsoffset,
            });
            return Step::Done(Found::Other { consumed });
        }
        Block::EnhancedPacket(packet) => {
            let interface = interfaces.get(packet.if_id as usize);
            let stamp = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
            Head {
                interface: before.saturating_add(packet.if_id),
                time_ns: interface.map_or(0, |interface| interface.time_ns(stamp)),
                data: place(packet.packet_data()),
                length: packet.origlen,
                link: interface.map(|interface| interface.link).ok_or(Damage::Interface),
            }
        }
        Block::SimplePacket(packet) => {
            let interface = interfaces.first();
            let limit = interface.map_or(0, |interface| interface.snap_length);
            let (start, end) = place(packet.packet_data());
            let limit = if limit == 0 { usize::MAX } else { limit as usize };
            Head {
                interface: *before,
                time_ns: 0,
                data: (start, end.min(start.saturating_add(limit))),
                length: packet.origlen,
                link: interface.map(|interface| interface.link).ok_or(Damage::Interface),
            }
        }
        _ => return Step::Done(Found::Other { consumed }),
    };
    Step::Done(Found::Record { consumed, head })
}

fn unfinished<T>(error: &NomErr<PcapError<&[u8]>>) -> Step<T> {
    match error {
        NomErr::Incomplete(Needed::Size(size)) if size.get() > MAX_RECORD => Step::More,
        NomErr::Incomplete(_) => Step::More,
        NomErr::Error(_) | NomErr::Failure(_) => Step::Bad,
    }
}

impl Interface {
    /// The time of a stamp, ns since 1970; the highest number when there is none.
    fn time_ns(&self, stamp: u64) -> u64 {
        let Some(ns) = (u128::from(stamp) * 1_000_000_000).checked_div(u128::from(self.resolution)) else {
            return u64::MAX;
        };
        let offset = i128::from(self.offset_seconds) * 1_000_000_000;
        let time = i128::try_from(ns).ok().map(|ns| ns + offset);
        // The highest time that protobuf's and JSON's clients take with room to spare.
        time.and_then(|time| u64::try_from(time).ok()).filter(|time| *time < LAST_NS).unwrap_or(u64::MAX)
    }
}

/// The year 2500.
const LAST_NS: u64 = 16_725_225_600 * 1_000_000_000;
