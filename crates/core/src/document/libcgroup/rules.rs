//! cgrules.conf: `user[:process] controllers destination [options]`, first match first.

use super::{File, Import, SyntaxError};
use crate::ids::Controller;
use crate::rules::Criteria;

pub(super) fn read(file: &File, import: &mut Import) -> Result<(), SyntaxError> {
    for (i, line) in file.text.lines().enumerate() {
        let number = i + 1;
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [] => {}
            ["%", _, destination, ..] => import.note(
                file,
                number,
                format!("the rule above puts the same processes also in {destination}: left out, a document has one group for them"),
            ),
            [who, controllers, destination, ref options @ ..] => {
                if let Err(why) = rule(import, who, controllers, destination, options) {
                    import.note(file, number, why);
                }
            }
            _ => {
                let what = "a rule is USER[:PROCESS] CONTROLLERS DESTINATION".into();
                return Err(SyntaxError { file: file.name.into(), line: number, what });
            }
        }
    }
    Ok(())
}

fn rule(import: &mut Import, who: &str, controllers: &str, destination: &str, options: &[&str]) -> Result<(), String> {
    let (user, process) = who.split_once(':').map_or((who, None), |(u, p)| (u, Some(p)));
    if user.starts_with('@') {
        return Err(format!("{who}: left out: rules look at users, not at their groups; write a rule for each user"));
    }
    if destination.contains('%') {
        return Err(format!(
            "{who}: left out: the destination {destination} has templates (%u and the like); write it out"
        ));
    }
    let exe = process.map(|p| if p.starts_with('/') { p.to_owned() } else { format!("*/{p}") });
    let criteria = Criteria { user: Some(user).filter(|u| *u != "*").map(Into::into), exe, ..Criteria::default() };
    criteria.check().map_err(|_| format!("{who}: left out: it would move every process of the machine"))?;
    // libcgroup's own "ignore" leaves what matches where it is; the root, which is not ours, means the same here.
    if options.contains(&"ignore") || destination == "/" {
        let late = !import.order.is_empty();
        import.ignore.push(criteria);
        return if late {
            Err(format!(
                "{who}: ignored; the document's ignore counts before all its rules, also those above this line"
            ))
        } else {
            Ok(())
        };
    }
    if controllers != "*" {
        for name in controllers.split(',') {
            match Controller::parse(name) {
                Some(controller) => import.controllers.insert(controller),
                None => import.notes.push(format!("{who}: {name} is left out: not a controller")),
            }
        }
    }
    let path = import.group(destination)?;
    if let Some(group) = import.groups.get_mut(&path) {
        group.processes.push(criteria);
    }
    import.order.push(path);
    match process.filter(|p| !p.starts_with('/')) {
        Some(name) => Err(format!(
            "{who}: becomes the program */{name}; a script of that name, which libcgroup would match too, needs a rule by cmdline"
        )),
        None => Ok(()),
    }
}
