//! docs/flags.md is what the programs themselves print; `PORTICO_UPDATE=1 cargo test -p portico-e2e --test flags` writes it anew.

use std::{env, fs, path::Path, process::Command};

use portico_e2e::tools::Tools;

const HEAD: &str = "# Flags\n\nWhat each program prints with `--help`. The chart sets flags by its [values](values.md), and others by `extraArgs`.\n";

const OPERATOR: &str = "portico-operator";
const NODE_PROXY: &str = "portico-nodeproxy";

const COMMANDS: [&[&str]; 9] = [
    &[OPERATOR, "run"],
    &[OPERATOR, "plan"],
    &[OPERATOR, "gc"],
    &[OPERATOR, "status"],
    &[NODE_PROXY],
    &[NODE_PROXY, "trace"],
    &[NODE_PROXY, "explain"],
    &[NODE_PROXY, "dump"],
    &["portico-lb"],
];

/// What a command prints with `--help`, whatever the environment sets.
fn help(tools: &Tools, command: &[&str]) -> String {
    let program = match command[0] {
        OPERATOR => tools.operator(),
        NODE_PROXY => tools.nodeproxy(),
        _ => tools.lb(),
    };
    let printed = Command::new(program).args(&command[1..]).arg("--help").env_clear().output();
    let printed = printed.expect("a program that `make build` builds");
    assert!(printed.status.success(), "{command:?}");
    let text = String::from_utf8(printed.stdout).expect("text");
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_page_of_flags_is_what_the_programs_print() {
    let tools = Tools::find().unwrap();
    let section = |command: &&[&str]| {
        format!("\n## `{}`\n```text\n{}\n```\n", command.join(" "), help(&tools, command).trim_end())
    };
    let page = HEAD.to_owned() + &COMMANDS.iter().map(section).collect::<String>();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/flags.md");
    if env::var_os("PORTICO_UPDATE").is_some() {
        fs::write(&file, &page).unwrap();
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    assert!(found == page, "docs/flags.md is stale: run the same test with PORTICO_UPDATE=1");
}
