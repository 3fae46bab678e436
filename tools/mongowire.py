#!/usr/bin/env python3
"""A server that speaks MongoDB's wire protocol over mongomock, for tests on machines without mongod.

Knows the commands that the gateway's driver sends, and no more. What it holds is in memory; with --state it is
written to a file at SIGTERM and read from there at the start, so that tests can restart it.

usage: mongowire.py [--host 127.0.0.1] [--port 0] [--state FILE]
Prints "listening on PORT" once it does. Needs the Python packages mongomock and pymongo.
"""
import argparse
import itertools
import os
import signal
import socket
import socketserver
import struct
import sys
import threading

import bson
import mongomock
from bson.codec_options import CodecOptions

DATABASES = mongomock.MongoClient()
LOCK = threading.RLock()
CURSORS = {}
CURSOR_IDS, REQUEST_IDS, CONNECTION_IDS = itertools.count(1000), itertools.count(1), itertools.count(1)
OPTIONS = CodecOptions(document_class=dict, tz_aware=False)
INDEXES = []  # (database, collection, keys, options), to make them again from a state file
OP_QUERY, OP_MSG = 2004, 2013


def hello(connection):
    return {"ismaster": True, "isWritablePrimary": True, "helloOk": True, "maxBsonObjectSize": 16777216,
            "maxMessageSizeBytes": 48000000, "maxWriteBatchSize": 100000, "logicalSessionTimeoutMinutes": 30,
            "connectionId": connection, "minWireVersion": 0, "maxWireVersion": 13, "readOnly": False, "ok": 1.0}


def failure(code, name, message):
    return {"ok": 0.0, "errmsg": message, "code": code, "codeName": name}


def cursor(namespace, documents, size):
    documents = list(documents)
    size = 101 if size is None else size
    first, rest = documents[:size], documents[size:]
    number = 0
    if rest:
        number = next(CURSOR_IDS)
        CURSORS[number] = (namespace, rest)
    return {"cursor": {"firstBatch": first, "id": bson.int64.Int64(number), "ns": namespace}, "ok": 1.0}


def create_index(database, collection, keys, options):
    documents = DATABASES[database][collection]
    others = []
    if "partialFilterExpression" in options:
        # mongomock would hold all documents that are there already against a partial index.
        covered = [one["_id"] for one in documents.find(options["partialFilterExpression"])]
        others = list(documents.find({"_id": {"$nin": covered}}))
        documents.delete_many({"_id": {"$nin": covered}})
    try:
        documents.create_index(list(keys.items()), **options)
    finally:
        if others:
            documents.insert_many(others)
    INDEXES.append((database, collection, keys, options))


def find(collection, namespace, command):
    found = collection.find(command.get("filter") or {}, command.get("projection") or None)
    if command.get("sort"):
        found = found.sort(list(command["sort"].items()))
    if command.get("skip"):
        found = found.skip(int(command["skip"]))
    limit = abs(int(command.get("limit") or 0))
    if limit:
        found = found.limit(limit)
    return cursor(namespace, found, command.get("batchSize"))


def insert(collection, command):
    count, errors = 0, []
    for index, document in enumerate(command["documents"]):
        document.setdefault("_id", bson.ObjectId())
        try:
            collection.insert_one(document)
            count += 1
        except mongomock.DuplicateKeyError as error:
            errors.append({"index": index, "code": 11000, "errmsg": str(error)})
            if command.get("ordered", True):
                break
    return {"n": count, "ok": 1.0, **({"writeErrors": errors} if errors else {})}


def update(collection, command):
    matched = modified = 0
    upserted, errors = [], []
    for index, one in enumerate(command["updates"]):
        change = collection.update_many if one.get("multi") else collection.update_one
        try:
            result = change(one["q"], one["u"], upsert=one.get("upsert", False))
        except mongomock.DuplicateKeyError as error:
            errors.append({"index": index, "code": 11000, "errmsg": str(error)})
            break
        matched += result.matched_count
        modified += result.modified_count or 0
        if result.upserted_id is not None:
            upserted.append({"index": index, "_id": result.upserted_id})
            matched += 1
    reply = {"n": matched, "nModified": modified, "ok": 1.0}
    if upserted:
        reply["upserted"] = upserted
    if errors:
        reply["writeErrors"] = errors
    return reply


def delete(collection, command):
    count = 0
    for one in command["deletes"]:
        remove = collection.delete_one if one.get("limit") == 1 else collection.delete_many
        count += remove(one["q"]).deleted_count
    return {"n": count, "ok": 1.0}


def find_and_modify(collection, command):
    query, sort = command.get("query") or {}, list((command.get("sort") or {}).items()) or None
    if command.get("remove"):
        value = collection.find_one_and_delete(query, command.get("fields"), sort=sort)
    else:
        value = collection.find_one_and_update(query, command["update"], command.get("fields"), sort=sort,
                                               upsert=command.get("upsert", False),
                                               return_document=bool(command.get("new")))
    return {"value": value, "lastErrorObject": {"n": int(value is not None)}, "ok": 1.0}


def run(database, command, connection):
    verb = next(iter(command))
    name = verb.lower()
    if name in ("hello", "ismaster"):
        return hello(connection)
    if name in ("ping", "endsessions", "killcursors"):
        return {"ok": 1.0}
    if name == "listcollections":
        names = DATABASES[database].list_collection_names()
        documents = [{"name": one, "type": "collection", "options": {}, "info": {"readOnly": False}} for one in names]
        return cursor(database + ".$cmd.listCollections", documents, None)
    if name == "getmore":
        namespace, rest = CURSORS.pop(command[verb], (None, None))
        if namespace is None:
            return failure(43, "CursorNotFound", "cursor id %s not found" % command[verb])
        size = int(command.get("batchSize") or 101)
        batch, rest = rest[:size], rest[size:]
        if rest:
            CURSORS[command[verb]] = (namespace, rest)
        number = bson.int64.Int64(command[verb] if rest else 0)
        return {"cursor": {"nextBatch": batch, "id": number, "ns": namespace}, "ok": 1.0}
    collection, namespace = DATABASES[database][command[verb]], "%s.%s" % (database, command[verb])
    if name == "createindexes":
        for index in command["indexes"]:
            options = {key: index[key] for key in ("name", "unique", "partialFilterExpression") if key in index}
            create_index(database, command[verb], index["key"], options)
        return {"createdCollectionAutomatically": False, "ok": 1.0}
    if name == "listindexes":
        known = collection.index_information().items()
        return cursor(namespace, [{"v": 2, "key": dict(one["key"]), "name": index} for index, one in known], None)
    if name == "find":
        return find(collection, namespace, command)
    for known, action in (("insert", insert), ("update", update), ("delete", delete),
                          ("findandmodify", find_and_modify)):
        if name == known:
            return action(collection, command)
    return failure(59, "CommandNotFound", "no such command: '%s'" % verb)


def execute(database, command, connection):
    try:
        with LOCK:
            return run(database, command, connection)
    except mongomock.DuplicateKeyError as error:
        return failure(11000, "DuplicateKey", str(error))
    except Exception as error:  # what mongomock does not do must fail in the client, not end the server
        return failure(8000, "InternalError", "%s: %s" % (type(error).__name__, error))


def parse_message(body):
    flags, = struct.unpack_from("<I", body, 0)
    place, end, command, sequences = 4, len(body) - (4 if flags & 1 else 0), None, {}
    while place < end:
        kind = body[place]
        place += 1
        size, = struct.unpack_from("<i", body, place)
        if kind == 0:
            command = bson.decode(body[place:place + size], OPTIONS)
        else:
            zero = body.index(0, place + 4)
            key, at, documents = body[place + 4:zero].decode(), zero + 1, []
            while at < place + size:
                length, = struct.unpack_from("<i", body, at)
                documents.append(bson.decode(body[at:at + length], OPTIONS))
                at += length
            sequences[key] = documents
        place += size
    command.update(sequences)
    return command, bool(flags & 2)


class Handler(socketserver.BaseRequestHandler):
    def read(self, count):
        data = bytearray()
        while len(data) < count:
            more = self.request.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return bytes(data)

    def answer(self, request, operation, body):
        self.request.sendall(struct.pack("<iiii", 16 + len(body), next(REQUEST_IDS), request, operation) + body)

    def handle(self):
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = next(CONNECTION_IDS)
        try:
            while True:
                length, request, _, operation = struct.unpack("<iiii", self.read(16))
                body = self.read(length - 16)
                if operation == OP_MSG:
                    command, wants_no_reply = parse_message(body)
                    reply = execute(command.get("$db", "admin"), command, connection)
                    if not wants_no_reply:
                        self.answer(request, OP_MSG, struct.pack("<I", 0) + b"\0" + bson.encode(reply))
                elif operation == OP_QUERY:
                    zero = body.index(0, 4)
                    command = bson.decode(body[zero + 9:], OPTIONS)
                    reply = execute("admin", command.get("$query", command), connection)
                    self.answer(request, 1, struct.pack("<iqii", 8, 0, 0, 1) + bson.encode(reply))
                else:
                    return
        except (EOFError, ConnectionError):
            pass


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


def load(path):
    if not os.path.exists(path):
        return
    with open(path, "rb") as file:
        state = bson.decode(file.read(), OPTIONS)
    for one in state["collections"]:
        DATABASES[one["database"]][one["collection"]].insert_many(one["documents"])
    for one in state["indexes"]:
        create_index(one["database"], one["collection"], one["keys"], one["options"])


def save(path):
    collections = [{"database": name, "collection": collection, "documents": list(DATABASES[name][collection].find())}
                   for name in DATABASES.list_database_names() for collection in DATABASES[name].list_collection_names()]
    collections = [one for one in collections if one["documents"]]
    indexes = [dict(zip(("database", "collection", "keys", "options"), one)) for one in INDEXES]
    with open(path, "wb") as file:
        file.write(bson.encode({"collections": collections, "indexes": indexes}))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--state")
    arguments = parser.parse_args()
    if arguments.state:
        load(arguments.state)
    server = Server((arguments.host, arguments.port), Handler)

    def stop(*_):
        with LOCK:
            if arguments.state:
                save(arguments.state)
            os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    print("listening on %d" % server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    sys.exit(main())
