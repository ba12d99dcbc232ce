-- What others have put on the extension's tables. A statement that writes into such a table runs it: a trigger with the
-- writer's rights, a foreign key with a right to refuse. The library asks before it writes; see docs/security.md.

create view busymate_stats_internal.foreign_objects with (security_invoker = true) as
    with member as not materialized (
        select d.classid, d.objid
          from pg_depend d
          join pg_extension e on d.refclassid = 'pg_extension'::regclass and e.oid = d.refobjid
         where d.deptype = 'e' and e.extname = 'busymate_stats'
    ),
    own as not materialized (
        select c.oid as relation, c.relname, c.relnamespace, c.relowner
          from pg_class c
         where c.relkind = 'r'
           and exists (select from member m where m.classid = 'pg_class'::regclass and m.objid = c.oid)
    )
    -- Who owns a table puts on it what they like.
    select own.relation::regclass as relation,
           format('%s, which role %I owns and no superuser', pg_describe_object('pg_class'::regclass, own.relation, 0),
                  o.rolname) as object,
           false as is_confined
      from own join pg_roles o on o.oid = own.relowner
     where not o.rolsuper
    union all
    -- A foreign key from a table of another's, whatever it does to the rows there; from a superuser's, one that acts.
    select distinct own.relation::regclass, pg_describe_object('pg_constraint'::regclass, k.oid, 0), false
      from own
      join pg_constraint k on k.contype = 'f' and own.relation in (k.conrelid, k.confrelid)
     where exists (
         select from pg_class c join pg_roles o on o.oid = c.relowner
          where c.oid in (k.conrelid, k.confrelid)
            and not exists (select from member m where m.classid = 'pg_class'::regclass and m.objid = c.oid)
            and (not o.rolsuper or k.confdeltype not in ('a', 'r') or k.confupdtype not in ('a', 'r')))
    union all
    -- A trigger that is not the extension's. One of a superuser's can stay whose function nobody else may execute: then
    -- nobody else has made it. One that fires after a feed was written and whose function is SECURITY DEFINER runs with its
    -- author's rights, and in a security-restricted operation leaves nothing behind that would run with the writer's.
    select own.relation::regclass, pg_describe_object('pg_trigger'::regclass, t.oid, 0),
           own.relname in ('service_stats', 'service_status') and f.prosecdef and t.tgtype & 66 = 0 and t.tgqual is null
               and not t.tgdeferrable
      from own
      join pg_trigger t on t.tgrelid = own.relation
      join pg_proc f on f.oid = t.tgfoid
      join pg_roles author on author.oid = f.proowner
      -- Not those of foreign keys; those that are switched off, or for TRUNCATE alone, run in no statement that writes.
     where not t.tgisinternal and t.tgenabled <> 'D' and t.tgtype & 28 <> 0
       and not (t.tgqual is null and t.tgnargs = 0 and f.pronamespace = 'busymate_stats_internal'::regnamespace
                and exists (select from member m where m.classid = 'pg_proc'::regclass and m.objid = f.oid)
                and (t.tgname = 'replicated'
                     and f.proname = case when own.relnamespace = 'busymate_stats'::regnamespace then 'take_over_replicated'
                                          else 'leave_out_replicated' end
                     or (own.relname::text, t.tgname::text, f.proname::text) in (
                    ('roles', 'guard', 'guard_roles'), ('roles', 'stamp', 'stamp_change'),
                    ('role_capabilities', 'guard', 'guard_role_capabilities'),
                    ('role_capabilities', 'guard_last_admin', 'guard_last_admin'),
                    ('role_capabilities', 'changed', 'grants_changed'), ('role_capabilities', 'stamp', 'stamp_change'),
                    ('user_roles', 'guard', 'guard_user_roles'), ('user_roles', 'guard_last_admin', 'guard_last_admin'),
                    ('user_roles', 'changed', 'grants_changed'), ('user_roles', 'stamp', 'stamp_change'),
                    ('revoked_tokens', 'changed', 'grants_changed'), ('components', 'guard', 'guard_components'),
                    ('components', 'guard_component_count', 'guard_component_count'),
                    ('attachment', 'note_owners', 'note_owners'))))
       and not (author.rolsuper
                and not exists (select from aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) held
                                  left join pg_roles r on r.oid = held.grantee
                                 where held.privilege_type = 'EXECUTE' and not coalesce(r.rolsuper, false)))
    union all
    select own.relation::regclass, pg_describe_object('pg_rewrite'::regclass, r.oid, 0), false
      from own join pg_rewrite r on r.ev_class = own.relation
    union all
    -- A default, a constraint, an index or a column's type that comes to a function, an operator or a type which is
    -- neither PostgreSQL's, of which pg_depend has no row, nor the extension's.
    select distinct own.relation::regclass, pg_describe_object(part.classid, part.objid, d.objsubid), false
      from own
     cross join lateral (
               select 'pg_attrdef'::regclass, a.oid from pg_attrdef a where a.adrelid = own.relation
               union all
               select 'pg_constraint'::regclass, k.oid from pg_constraint k where k.conrelid = own.relation
               union all
               select 'pg_class'::regclass, i.indexrelid from pg_index i where i.indrelid = own.relation
               union all
               select 'pg_class'::regclass, own.relation) part (classid, objid)
      join pg_depend d on d.classid = part.classid and d.objid = part.objid
                      and d.refclassid in ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass,
                                           'pg_opclass'::regclass)
     where not exists (select from member m where m.classid = d.refclassid and m.objid = d.refobjid);
comment on view busymate_stats_internal.foreign_objects is
    'What others have put on the extension''s tables: while it is there, neither the worker nor anybody with the owner''s rights writes into the table, unless it is confined.';
comment on column busymate_stats_internal.foreign_objects.relation is 'The table.';
comment on column busymate_stats_internal.foreign_objects.object is 'What stands on it.';
comment on column busymate_stats_internal.foreign_objects.is_confined is
    'It runs with its author''s rights where the extension writes, and hinders nothing.';
