//! Filter flags of `observe`: one row each. Their order on the command line matters, because `--not` is for the next one.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::filter::{FilterBuilder, Outcome, Side};

mod ends;
mod facts;
mod table;

/// What one filter flag does.
pub(crate) struct Flag {
    /// Long name, without dashes.
    pub(crate) name: &'static str,
    short: Option<char>,
    /// Name of the value in the help; a flag without one is a switch.
    value: Option<&'static str>,
    help: &'static str,
    /// Which end of a flow it is about.
    pub(crate) side: Side,
    /// Adds a value to the filter.
    pub(crate) set: Setter,
}

/// Adds a value to a filter.
type Setter = fn(&mut FilterBuilder, Side, &str) -> Outcome;

/// One filter flag as it was typed.
#[derive(Clone)]
pub(crate) struct Given {
    /// The flag.
    pub(crate) flag: &'static Flag,
    /// Its value, empty for a switch.
    pub(crate) value: String,
    /// Whether `--not` stood before it.
    pub(crate) negated: bool,
}

/// The filter flags of a command line, in their order.
#[derive(Clone, Default)]
pub(crate) struct FilterFlags {
    /// Every filter flag.
    pub(crate) given: Vec<Given>,
}

impl FromArgMatches for FilterFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let mut found: Vec<(usize, Option<Given>)> = indices(matches, NOT).map(|at| (at, None)).collect();
        for flag in table::FLAGS {
            let values = matches.get_many::<String>(flag.name).into_iter().flatten();
            let given = values.map(|value| Given { flag, value: value.clone(), negated: false });
            found.extend(indices(matches, flag.name).zip(given.map(Some)));
        }
        found.sort_by_key(|(at, _)| *at);
        let mut negated = false;
        for (_, given) in found {
            match given {
                Some(given) => {
                    self.given.push(Given { negated, ..given });
                    negated = false;
                }
                None if negated => return Err(usage("consecutive --not statements")),
                None => negated = true,
            }
        }
        if negated { Err(usage("trailing --not found in the arguments")) } else { Ok(()) }
    }
}

impl Args for FilterFlags {
    fn augment_args(command: Command) -> Command {
        let not = Arg::new(NOT)
            .long(NOT)
            .num_args(0)
            .default_missing_value("")
            .action(ArgAction::Append)
            .help_heading(HEADING)
            .help("Negate the next filter; negated filters must all match for a flow to be left out");
        table::FLAGS.iter().map(Flag::arg).fold(command.arg(not), Command::arg)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl Flag {
    fn arg(&self) -> Arg {
        let mut arg = Arg::new(self.name)
            .long(self.name)
            .action(ArgAction::Append)
            .help(self.help)
            .help_heading(HEADING);
        if let Some(short) = self.short {
            arg = arg.short(short);
        }
        match self.value {
            Some(name) => arg.value_name(name).num_args(1).allow_hyphen_values(false),
            None => arg.num_args(0).default_missing_value(""),
        }
    }
}

fn indices<'a>(matches: &'a ArgMatches, name: &str) -> impl Iterator<Item = usize> + 'a {
    matches.indices_of(name).into_iter().flatten()
}

fn usage(message: &'static str) -> clap::Error {
    clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("{message}\n"))
}

const NOT: &str = "not";
const HEADING: &str = "Filters (repeat one: any of the values; combine several: all of them)";
