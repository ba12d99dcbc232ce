-- Asks from inside a statement.
create function test.agree() returns boolean language plpgsql volatile as $$
declare
    t timestamptz := clock_timestamp();
    at jsonb;
    plain jsonb;
begin
    if not exists (select from busymate_stats_internal.attachment) then
        return true;
    end if;
    at := busymate_stats.stats_at(t);
    plain := busymate_stats.stats_recomputed(t);
    if at is distinct from plain then
        raise exception using errcode = 'BM001', message = format('inside a statement: sealed %s, plain %s', at, plain);
    end if;
    return true;
end
$$;
-- Asks under the snapshot of the query that calls it, a cursor's for one.
create function test.agree_in_query() returns boolean language plpgsql stable as $$
declare
    t timestamptz := clock_timestamp();
    at jsonb;
    plain jsonb;
begin
    if not exists (select from busymate_stats_internal.attachment) then
        return true;
    end if;
    at := busymate_stats.stats_at(t);
    plain := busymate_stats.stats_recomputed(t);
    if at is distinct from plain then
        raise exception using errcode = 'BM001', message = format('inside a query: sealed %s, plain %s', at, plain);
    end if;
    return true;
end
$$;
create function test.look() returns trigger language plpgsql as $$
begin
    perform test.agree();
    return null;
end
$$;
create trigger look_at_row after insert or update on public.entries
    for each row when (new.note = 'look') execute function test.look();
-- Asks, and writes one more late row before, when the transaction is about to commit.
create function test.look_at_commit() returns trigger language plpgsql as $$
begin
    if new.note = 'more' then
        insert into public.entries (created_at, host, owner) values (new.created_at - interval '1 hour', 'more', new.owner);
    end if;
    perform test.agree();
    return null;
end
$$;
create constraint trigger look_at_commit after insert on public.entries deferrable initially deferred
    for each row when (new.note in ('ask', 'more') and coalesce(current_setting('test.deferred', true), '') <> 'off')
    execute function test.look_at_commit();
create trigger a_look_at_statement after insert on public.entries
    for each statement when (current_setting('test.look', true) = 'on') execute function test.look();

select busymate_stats.attach('public.entries', 'public.devices');
