//! No client is sent a Rust backtrace, whatever the server's environment says: not with the library's own errors, nor with
//! those of a user's function that passes through it, nor with the library's own mistakes.

use harness::{Cluster, Refusal, as_caller, refusal, refusal_of};
use postgres::Client;

fn started() -> (Cluster, Client) {
    let cluster = Cluster::start_with(harness::NO_WORKER, &[("RUST_BACKTRACE", "1")]);
    let database = cluster.create_database("traced");
    let mut client = cluster.connect(&database);
    client.batch_execute("create extension busymate_stats").unwrap();
    (cluster, client)
}

#[track_caller]
fn detail(refusal: &Refusal, code: &str, expected: &str) {
    assert_eq!((refusal.code.as_str(), refusal.detail.as_str()), (code, expected), "{refusal:?}");
}

#[test]
fn an_error_of_ours_has_the_detail_that_it_was_given() {
    let (_cluster, mut client) = started();
    detail(&refusal(&mut client, "select public.get_stats()"), "42P01", "");
    client
        .batch_execute("create role nobody; grant execute on function public.report_status to nobody")
        .unwrap();
    let refused =
        as_caller(&mut client, "nobody", None, |client| refusal(client, "select public.report_status('{}')"));
    detail(&refused, "42501", "It takes the capability \"status:edit\".");
}

#[test]
fn an_error_of_a_users_function_has_its_own_detail() {
    let (_cluster, mut client) = started();
    client
        .batch_execute(
            "create function fails(with_detail bool) returns text language plpgsql as $$
             begin
                if with_detail then
                    raise exception 'out of order' using errcode = '22012', detail = 'As it happens.';
                end if;
                raise exception 'out of order';
             end $$;
             create table switched (with_detail bool);
             insert into switched values (true);
             create view entries as
                select now() as created_at, gen_random_uuid() as device_uuid, null::text as host, 200 as status,
                       fails(with_detail) as source
                  from switched;
             create table devices (device_uuid uuid primary key, name text, connection_type text,
                                   last_seen_at timestamptz);
             select busymate_stats.attach('entries', 'devices')",
        )
        .unwrap();
    detail(&refusal(&mut client, "select public.get_stats()"), "22012", "As it happens.");
    client.batch_execute("update switched set with_detail = false").unwrap();
    for statement in ["select public.get_stats()", "select busymate_stats.refresh_stats()"] {
        detail(&refusal(&mut client, statement), "P0001", "");
    }
    // A Rust function that only passes it on, from a call of a call.
    client
        .batch_execute("create function calls() returns jsonb language sql as 'select public.get_stats()'")
        .unwrap();
    let error = client.query("select calls()", &[]).unwrap_err();
    detail(&refusal_of(&error), "P0001", "");
}

#[test]
fn a_mistake_of_ours_leaves_its_backtrace_in_the_log() {
    let (cluster, mut client) = started();
    client.batch_execute("alter table public.service_status rename to elsewhere").unwrap();
    let refused = refusal(&mut client, "select public.report_status('{}')");
    detail(&refused, "XX000", "");
    let log = cluster.log();
    assert!(log.contains("busymate_stats panicked at") && log.contains("   0: "), "{log}");
}
