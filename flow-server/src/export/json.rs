//! Flows as Hubble's exporter writes them: one JSON object a line.

use std::io;

use specola_flow::{FlowMask, FlowView, MessageContext, flow_message};
use specola_proto::{
    flow::{Flow, LostEvent},
    observer::{ExportEvent, export_event::ResponseTypes},
};

use super::{
    ExportItem, Exporter,
    aggregate::Aggregation,
    config::{ExportConfigError, ExporterSpec},
    file::LineFile,
    line::LineWriter,
};

/// Writes JSON lines.
#[derive(Debug)]
pub(super) struct JsonExporter {
    file: LineFile,
    mask: Option<FlowMask>,
    /// The short way, for most flows and masks.
    writer: Option<LineWriter>,
    aggregation: Option<Aggregation>,
    /// Flows that were taken into a group, and are accounted for by that.
    grouped: u64,
    /// Lines in the file's buffer that stand for no record of their own: groups, and what this exporter missed.
    extra: u64,
}

impl JsonExporter {
    pub(super) fn new(spec: &ExporterSpec) -> Result<Self, ExportConfigError> {
        let fields = spec.mask(&spec.aggregate)?.filter(|_| spec.aggregation_interval_ns > 0);
        Ok(Self {
            file: LineFile::new(spec),
            mask: spec.mask(&spec.field_mask)?,
            writer: LineWriter::new(&spec.field_mask),
            aggregation: fields.map(|fields| Aggregation::new(fields, spec.aggregation_interval_ns)),
            grouped: 0,
            extra: 0,
        })
    }

    /// Writes the line without a message; returns whether that was possible.
    fn write_directly(&mut self, view: &FlowView<'_>, context: &MessageContext<'_>) -> bool {
        let Some(writer) = &mut self.writer else {
            return false;
        };
        self.file.line_if(|out| writer.write(view, context, out))
    }

    fn write_flow(&mut self, flow: Flow) -> io::Result<()> {
        let flow = match &self.mask {
            // What counts the flows of a group is no field of the flow itself.
            Some(mask) => {
                let mut kept = mask.apply(&flow).map_err(io::Error::other)?;
                kept.aggregate = flow.aggregate;
                kept
            }
            None => flow,
        };
        self.write(&ExportEvent {
            time: flow.time,
            node_name: flow.node_name.clone(),
            response_types: Some(ResponseTypes::Flow(flow)),
        })
    }

    fn write_lost(&mut self, lost: &LostEvent, node_name: &str) -> io::Result<()> {
        self.write(&ExportEvent {
            time: lost.last,
            node_name: node_name.to_owned(),
            response_types: Some(ResponseTypes::LostEvents(*lost)),
        })
    }

    fn write(&mut self, event: &ExportEvent) -> io::Result<()> {
        self.file.line(|out| {
            serde_json::to_writer(&mut *out, event)?;
            out.push(b'\n');
            Ok(())
        })
    }

    fn write_groups(&mut self, flows: Vec<Flow>) {
        for flow in flows {
            match self.write_flow(flow) {
                Ok(()) => self.extra += 1,
                Err(error) => tracing::error!(%error, "a group of flows is not written"),
            }
        }
    }
}

impl Exporter for JsonExporter {
    fn push(&mut self, item: ExportItem<'_>) -> io::Result<()> {
        match item {
            ExportItem::Flow(view, context) => {
                if self.aggregation.is_none() && self.write_directly(view, context) {
                    return Ok(());
                }
                let flow = flow_message(view, context);
                match &mut self.aggregation {
                    Some(aggregation) => {
                        aggregation.add(flow).map_err(io::Error::other)?;
                        self.grouped += 1;
                    }
                    None => self.write_flow(flow)?,
                }
            }
            ExportItem::Lost(lost, node_name) => self.write_lost(lost, node_name)?,
            ExportItem::Missed(lost, node_name) => {
                self.write_lost(lost, node_name)?;
                self.extra += 1;
            }
        }
        Ok(())
    }

    fn flush(&mut self, now_ns: u64) -> io::Result<()> {
        let due = self.aggregation.as_mut().map(|aggregation| aggregation.due(now_ns)).unwrap_or_default();
        self.write_groups(due);
        self.file.flush()
    }

    fn finish(&mut self) {
        let rest = self.aggregation.as_mut().map(Aggregation::take).unwrap_or_default();
        self.write_groups(rest);
    }

    fn is_full(&self) -> bool {
        self.file.is_full()
    }

    fn take_written(&mut self) -> u64 {
        let lines = self.file.take_written();
        let extra = lines.min(self.extra);
        self.extra -= extra;
        lines - extra + std::mem::take(&mut self.grouped)
    }

    fn waiting(&self) -> u64 {
        self.file.waiting().saturating_sub(self.extra)
    }
}
