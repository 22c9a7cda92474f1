//! `cgrove convert`

use cgrove_core::desired;
use cgrove_core::document::{to_by_controller, to_by_group};

use super::args::{Args, Form};
use super::document;
use crate::exit::Exit;
use crate::term;

pub(super) fn run(args: &Args, tree: Option<&str>, to: Option<Form>) -> Result<u8, Exit> {
    let found = document::find(args, tree)?;
    let desired = document::parse(&found)?;
    let to = to.unwrap_or(match desired.form {
        desired::Form::ByController => Form::ByGroup,
        desired::Form::ByGroup => Form::ByController,
    });
    let (json, changes) = match to {
        Form::ByGroup => to_by_group(&desired),
        Form::ByController => to_by_controller(&desired),
    };
    for line in desired.warnings.iter().chain(&changes) {
        term::err(&format!("note: {line}"));
    }
    term::json_pretty(&json);
    Ok(0)
}
