// Package channel gives the channel of RFC 4254 (data, extended data, requests with replies, half-close, close) on one reliable byte
// stream, which is how a session crosses the tunnel: no second SSH inside it.
//
// Start from New; Conn satisfies Channel, as does the adaptor over golang.org/x/crypto/ssh in package sshadapt, so one session engine
// serves both.
//
// # On the wire
//
// A message is
//
//	u8  type (the number RFC 4254 gives it)
//	u32 length of the body
//	... body
//
// with integers big-endian:
//
//	 93 WINDOW_ADJUST  u32 data, u32 extended, u8 tag: the peer may send so many more bytes of DATA and of EXTENDED_DATA;
//	                   data bytes below the window so far given back were taken by the program. tag: see Options.Tag
//	 94 DATA           bytes (1..MaxMessageData)
//	 95 EXTENDED_DATA  bytes (1..MaxMessageData) of stderr
//	 96 EOF            empty: no more DATA or EXTENDED_DATA from its sender
//	 97 CLOSE          empty: nothing more from its sender; answered with CLOSE
//	 98 REQUEST        u8 want reply (0 or 1), u8 length of name, name (1..64 bytes), payload (rest, ≤ MaxRequest)
//	 99 SUCCESS        empty: answers the oldest unanswered REQUEST that wanted a reply
//	100 FAILURE        empty: the same, refused
//
// DATA and EXTENDED_DATA have a window each, counted in payload bytes; everything else is free of windows, so that a program that reads
// no input never blocks a request. Each window starts at the figure both sides know (Options.Window, PeerWindow). Data past a window, after
// EOF, a message with an unknown type or a wrong length are errors that end the channel.
package channel
